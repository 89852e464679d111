// Every ISA level against the portable one with many seeds, the geometry rules, and dispatch.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "ops/level_checks.h"
#include "rounds.h"

namespace {

TEST(Levels, EqualThePortableOne) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    for (uint32_t seed = 1; seed <= static_cast<uint32_t>(rounds(60)); ++seed) {
      for (const bqc::LevelCheck& check : bqc::compare_levels(bqc::portable::kKernels, *set, seed)) {
        EXPECT_TRUE(check.same) << set->name << ", seed " << seed << ": " << check.what;
      }
    }
  }
}

TEST(Levels, ReportADifference) {
  bqc::RowKernels rows = *bqc::portable::kKernels.rows;
  rows.sum_codes = [](const uint8_t*, int64_t) { return -1; };
  bqc::KernelSet wrong = bqc::portable::kKernels;
  wrong.rows = &rows;
  int failures = 0;
  for (const bqc::LevelCheck& check : bqc::compare_levels(bqc::portable::kKernels, wrong, 1))
    failures += !check.same;
  EXPECT_GT(failures, 0);
}

// Products [rows][16 * strips] of one block a row.
std::vector<float> products(const bqc::KernelSet& set, int bits, int64_t rows, int64_t inputs,
                            const std::vector<int8_t>& codes, const std::vector<uint8_t>& weight) {
  const bqc::Geometry g = bqc::make_geometry(inputs, inputs, 0);
  const std::vector<int8_t> exponents(static_cast<size_t>(rows), 0), weight_exponents(16, 0);
  void* panel = bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set.gemm->panel_bytes(&g, rows)));
  std::vector<float> out(static_cast<size_t>(rows * 16));
  set.gemm->prepare(&g, bits, codes.data(), inputs, exponents.data(), 1, rows, panel);
  set.gemm->multiply(&g, bits, panel, rows, weight.data(), weight_exponents.data(), 1, 0, 1, out.data(), 16);
  return out;
}

// Sums of 16 bits overflow first where every code is the largest.
TEST(Levels, HoldTheLargestProducts) {
  constexpr int64_t kRows = 7, kInputs = 400;
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    for (const int bits : {8, 6, 4, 3, 2}) {
      for (const int code : {-128, 127}) {
        for (const int stored : {0, 0xff}) {
          const std::vector<int8_t> codes(kRows * kInputs, static_cast<int8_t>(code));
          const std::vector<uint8_t> weight(static_cast<size_t>(bqc::tile_count(kInputs, bits) * 64),
                                            static_cast<uint8_t>(stored));
          const int half = 1 << (bits - 1);
          const float each = static_cast<float>(kInputs * code * (stored ? half - 1 : -half));
          EXPECT_EQ(products(*set, bits, kRows, kInputs, codes, weight), std::vector<float>(kRows * 16, each))
              << set->name << ", " << bits << " bits, " << code << " times " << stored;
        }
      }
    }
  }
}

// A digest of results on inputs that no library makes, so that it is one number on every CPU and
// architecture.
class Digest {
 public:
  explicit Digest(const bqc::KernelSet& set) : set_(set) {}

  uint64_t run_signs() {
    for (const int mask : {0xff, 0x0f}) signs(mask);
    return hash_;
  }

  uint64_t run_sparse() {
    for (const int mask : {0xff, 0x07}) {
      for (const int of : {4, 8}) sparse(mask, of);
    }
    return hash_;
  }

  uint64_t run() {
    for (const int64_t n : {26, 312, 768}) functions(n);
    for (const int bits : {8, 6, 4}) product(bits);
    attention();
    return hash_;
  }

  uint64_t run_small_weights() {
    for (const int bits : {3, 2}) {
      product(bits);
      for (const int64_t n : {26, 300, 312}) unpacking(bits, n);
    }
    return hash_;
  }

 private:
  template <class T>
  std::vector<T> integers(int64_t n) {
    std::vector<T> out(static_cast<size_t>(n));
    for (T& x : out) x = static_cast<T>(random_());
    return out;
  }

  // Between -8 and 8, in steps of 2**-20.
  std::vector<float> floats(int64_t n) {
    std::vector<float> out(static_cast<size_t>(n));
    for (float& x : out) x = static_cast<float>(static_cast<int32_t>(random_()) >> 8) * 0x1p-20f;
    return out;
  }

  template <class T>
  void add(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) hash_ = (hash_ ^ bytes[i]) * 0x100000001b3u;
  }

  void functions(int64_t n) {
    const bqc::RowKernels& r = *set_.rows;
    const bqc::Geometry g = bqc::make_geometry(n, 64, 0);
    const auto size = static_cast<size_t>(n), count = static_cast<size_t>(g.count);
    auto x = floats(n);
    const auto gamma = floats(n), beta = floats(n);
    std::vector<float> y(size);
    std::vector<int32_t> q(size, -1);
    std::vector<int8_t> codes(size), exponents(count);
    std::vector<uint8_t> p(size);
    r.gelu(x.data(), n, 0, y.data()), add(y);
    r.gelu(x.data(), n, 1, y.data()), add(y);
    r.tanh(x.data(), n, y.data()), add(y);
    r.add_bias(x.data(), beta.data(), n, y.data()), add(y);
    r.scale(x.data(), 0.3f, n, y.data()), add(y);
    r.quantize(x.data(), &g, 8, codes.data(), exponents.data()), add(codes), add(exponents);
    r.dequantize(codes.data(), exponents.data(), &g, y.data()), add(y);
    r.add_dequantized(codes.data(), exponents.data(), &g, y.data()), add(y);
    r.layer_norm(x.data(), gamma.data(), beta.data(), 1e-12f, n, q.data(), y.data()), add(y);
    q.assign(size, -1);
    r.softmax(x.data(), q.data(), 1, n, p.data()), add(p);
  }

  void product(int bits) {
    constexpr int64_t kRows = 21, kInputs = 312, kStrips = 3;
    const bqc::Geometry g = bqc::make_geometry(kInputs, 64, 0);
    const auto codes = integers<int8_t>(kRows * kInputs), exponents = small(kRows * g.count),
               weight_exponents = small(kStrips * 16 * g.count);
    const auto weight = integers<uint8_t>(kStrips * bqc::tile_count(320, bits) * 64);
    void* panel =
        bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set_.gemm->panel_bytes(&g, kRows)));
    std::vector<float> out(kRows * kStrips * 16);
    set_.gemm->prepare(&g, bits, codes.data(), kInputs, exponents.data(), g.count, kRows, panel);
    set_.gemm->multiply(&g, bits, panel, kRows, weight.data(), weight_exponents.data(), kStrips, 0, kStrips,
                        out.data(), kStrips * 16);
    add(out);
  }

  void unpacking(int bits, int64_t columns) {
    const auto row = integers<uint8_t>(bqc::table_row_bytes(columns, bits)),
               lane = integers<uint8_t>(bqc::tile_count(bqc::round_up(columns, 16), bits) * 64);
    std::vector<int8_t> codes(static_cast<size_t>(bqc::round_up(columns, 16)));
    set_.rows->unpack_row(row.data(), bits, columns, codes.data()), add(codes);
    set_.rows->unpack_lane(lane.data() + 28, bits, columns, codes.data()), add(codes);
  }

  // Codes that the mask leaves of bytes.
  void signs(int mask) {
    constexpr int64_t kRows = 21, kInputs = 312, kStrips = 3;
    const bqc::Geometry g = bqc::make_geometry(kInputs, 64, 0);
    auto codes = integers<int8_t>(kRows * kInputs);
    for (int8_t& code : codes) code = static_cast<int8_t>(code & mask);
    const auto exponents = small(kRows * g.count);
    const auto bits = integers<uint8_t>(2 * kStrips * 320 * 2);
    const auto scales = floats(2 * kStrips * 16);
    void* panel =
        bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set_.signs->panel_bytes(&g, kRows)));
    std::vector<float> out(kRows * kStrips * 16);
    const bqc::SignPlanes weight = {bits.data(), scales.data(), 2, kStrips};
    set_.signs->prepare(&g, codes.data(), kInputs, exponents.data(), g.count, kRows, panel);
    set_.signs->multiply(&g, panel, kRows, &weight, 0, kStrips, out.data(), kStrips * 16);
    add(out);
  }

  // Codes that the mask leaves of bytes; four bits where `of` is 8.
  void sparse(int mask, int of) {
    constexpr int64_t kRows = 21, kInputs = 312, kStrips = 3;
    const bqc::Geometry g = bqc::make_geometry(kInputs, 64, 0);
    auto codes = integers<int8_t>(kRows * kInputs);
    for (int8_t& code : codes) code = static_cast<int8_t>(code & mask);
    const auto exponents = small(kRows * g.count);
    const auto draw = [this](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random_() % static_cast<uint32_t>(high - low + 1));
    };
    const auto tiles = bqc::any_sparse_tiles(draw, kStrips, 320, 2, of, of == 8 ? 4 : 8);
    const auto scales = floats(kStrips * 16);
    void* panel =
        bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set_.sparse->panel_bytes(&g, kRows)));
    std::vector<float> out(kRows * kStrips * 16);
    const bqc::SparseTiles weight = {tiles.data(), scales.data(), kStrips, 2, of, of == 8 ? 4 : 8};
    set_.sparse->prepare(&g, codes.data(), kInputs, exponents.data(), g.count, kRows, panel);
    set_.sparse->multiply(&g, panel, kRows, &weight, 0, kStrips, out.data(), kStrips * 16);
    add(out);
  }

  // Exponents from -8 to -1.
  std::vector<int8_t> small(int64_t n) {
    auto out = integers<int8_t>(n);
    for (int8_t& e : out) e = static_cast<int8_t>(-1 - (e & 7));
    return out;
  }

  void attention() {
    constexpr int64_t kKeys = 45, kWidth = 32, kRows = 7, kStride = 48;
    const bqc::Geometry g = bqc::make_geometry(kWidth, 64, 0);
    const auto values = integers<int8_t>(kKeys * kWidth), exponents = small(g.count);
    auto codes = integers<uint8_t>(kRows * kStride);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = i % kStride < kKeys ? codes[i] : uint8_t{0};
    std::vector<int8_t> tiles(kStride * kWidth);
    std::vector<int32_t> dot(kRows * kWidth);
    std::vector<float> y(kWidth);
    set_.gemm->pack_values(values.data(), kWidth, kKeys, kWidth, tiles.data()), add(tiles);
    set_.gemm->mix(codes.data(), kStride, kRows, tiles.data(), kKeys, kWidth / 16, dot.data(), kWidth);
    add(dot);
    set_.rows->context(dot.data(), exponents.data(), &g, set_.rows->sum_codes(codes.data(), kKeys), y.data());
    add(y);
  }

  const bqc::KernelSet& set_;
  std::mt19937 random_{1};
  uint64_t hash_ = 0xcbf29ce484222325u;
};

TEST(Levels, GiveTheSameBitsOnEveryArchitecture) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    EXPECT_EQ(Digest(*set).run(), 0x3690c43e5ddca29bu) << set->name;
    EXPECT_EQ(Digest(*set).run_small_weights(), 0xdc47546425011192u) << set->name;
    EXPECT_EQ(Digest(*set).run_signs(), 0x7c63878538586499u) << set->name;
    EXPECT_EQ(Digest(*set).run_sparse(), 0x866b3b42b4c3a418u) << set->name;
  }
}

TEST(Geometry, CountsBlocksInsideGroups) {
  EXPECT_EQ(bqc::make_geometry(768, 64, 0).count, 12);
  EXPECT_EQ(bqc::make_geometry(312, 64, 0).count, 5);
  EXPECT_EQ(bqc::make_geometry(312, 16, 26).count, 24);
  EXPECT_EQ(bqc::make_geometry(26, 4096, 0).count, 1);
  EXPECT_THROW(bqc::make_geometry(100, 16, 26), bqc::Error);
  EXPECT_THROW(bqc::make_geometry(0, 16, 0), bqc::Error);
  EXPECT_EQ(bqc::block_count(-1, 64, 0), -1);
}

// BQC_TEST_LEVEL says what a CPU, an emulated one above all, has to offer.
TEST(Dispatch, OffersTheExpectedLevel) {
  if (const char* level = std::getenv("BQC_TEST_LEVEL")) {
    EXPECT_STREQ(bqc::runnable_kernels().back()->name, level);
  }
}

TEST(Dispatch, ObeysTheCap) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    setenv("BQC_MAX_ISA", set->name, 1);
    EXPECT_EQ(bqc::choose_kernels().set, set);
  }
  unsetenv("BQC_MAX_ISA");
  EXPECT_EQ(bqc::choose_kernels().set, bqc::runnable_kernels().back());
}

TEST(Dispatch, PassesOverLevelsWithoutTheFormat) {
  for (const int64_t bits : {8, 6, 4, 3, 2}) {
    EXPECT_EQ(bqc::choose_kernels(bits).set, bqc::runnable_kernels().back()) << bits;
  }
  const bqc::Choice none = bqc::choose_kernels(5);
  EXPECT_EQ(none.set, &bqc::portable::kKernels);
  if (bqc::runnable_kernels().size() > 1) {
    EXPECT_NE(none.reason.find("has no 5-bit weights"), std::string::npos) << none.reason;
  }
}

TEST(Peaks, AreThoseOfRunnableLevels) {
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    const bqc::PeakLoops* loops = bqc::peak_loops(set->name);
    ASSERT_NE(loops, nullptr) << set->name;
    for (const bqc::PeakLoop& loop : {loops->int8, loops->fp32, loops->bits}) {
      EXPECT_GT(bqc::peak_gmacs(loop, 0.01), 0.0) << set->name << ", " << loop.what;
    }
  }
  EXPECT_EQ(bqc::peak_loops("none"), nullptr);
}

}  // namespace
