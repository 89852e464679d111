// Products of signs with signs: every ISA level against double loops over the definition.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "random.h"

namespace {

std::vector<uint8_t> bytes(Random& random, int64_t n) {
  std::vector<uint8_t> out(static_cast<size_t>(n));
  for (uint8_t& x : out) x = static_cast<uint8_t>(random());
  return out;
}

// Any bits, those beyond the columns included.
struct Problem {
  int64_t columns, rows, strips;
  std::vector<uint8_t> bits, tiles;  // [rows][stride()], n16k64
  std::vector<float> scales;

  Problem(Random& random, int64_t columns, int64_t rows, int64_t strips)
      : columns(columns), rows(rows), strips(strips) {
    bits = bytes(random, rows * stride());
    tiles = bytes(random, strips * strip_bytes());
    std::normal_distribution<float> normal(0, 1);
    for (int64_t i = 0; i < strips * 16; ++i) scales.push_back(i % 7 ? normal(random) : i % 2 ? 0.0f : 1.0f);
  }

  int64_t stride() const { return bqc::ceil_div(columns, 8); }
  int64_t strip_bytes() const { return bqc::round_up(columns, 64) * 2; }

  bool input(int64_t row, int64_t i) const {
    return bits[static_cast<size_t>(row * stride() + i / 8)] >> i % 8 & 1;
  }
  bool weight(int64_t n, int64_t i) const {
    const int64_t byte = n / 16 * strip_bytes() + i / 64 * 128 + i % 64 / 8 * 16 + n % 16;
    return tiles[static_cast<size_t>(byte)] >> i % 8 & 1;
  }
  float naive(int64_t row, int64_t n) const {
    int32_t dot = 0;
    for (int64_t i = 0; i < columns; ++i) dot += input(row, i) == weight(n, i) ? 1 : -1;
    volatile float scaled = static_cast<float>(dot) * scales[static_cast<size_t>(n)];
    return 0.0f + scaled;
  }

  // Products [rows][16 * strips] of strips [first, last); 77 elsewhere.
  std::vector<float> run(const bqc::KernelSet& set, int64_t first, int64_t last) const {
    // Memory of exactly the size that was asked for.
    const size_t size = static_cast<size_t>(set.xnor->panel_bytes(columns, rows));
    void* panel = bqc::scratch_bytes(bqc::Slot::panel, size);
    std::memset(panel, 0x5a, size);
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    set.xnor->prepare(columns, bits.data(), stride(), rows, panel);
    const bqc::BitTiles weight = {tiles.data(), scales.data(), columns, strips};
    set.xnor->multiply(panel, rows, &weight, first, last, out.data(), strips * 16);
    return out;
  }

  // Compares the bytes of a level's products with those of another's.
  void expect_same(const std::vector<float>& a, const std::vector<float>& b, const char* what) const {
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
        << what << ": " << rows << " rows of " << columns << ", " << strips << " strips";
  }
};

const int64_t kColumns[] = {1,  3,  4,  7,   8,   20,  31,  32,  33,  63,   64,
                            65, 96, 97, 100, 128, 160, 312, 480, 768, 1441, 3072};

TEST(Xnor, EqualsTheDefinition) {
  Random random(1);
  for (const int64_t columns : kColumns) {
    for (const int64_t rows : {1, 2, 3, 4, 6, 7, 8, 9, 15, 16, 17, 33}) {
      const Problem problem(random, columns, rows, between(random, 1, 3));
      std::vector<float> expected;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t n = 0; n < problem.strips * 16; ++n) expected.push_back(problem.naive(row, n));
      }
      for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
        problem.expect_same(problem.run(*set, 0, problem.strips), expected, set->name);
      }
    }
  }
}

TEST(Xnor, EqualsThePortableLevel) {
  Random random(2);
  for (int i = 0; i < 100; ++i) {
    const int64_t strips = between(random, 1, i % 10 ? 5 : 70), first = between(random, 0, strips - 1),
                  last = between(random, first + 1, strips);
    const Problem problem(random, i % 2 ? kColumns[between(random, 0, 21)] : between(random, 1, 4000),
                          between(random, 1, i % 10 ? 20 : 70), strips);
    const std::vector<float> expected = problem.run(bqc::portable::kKernels, first, last);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, first, last), expected, set->name);
    }
  }
}

// Counts overflow first where all bits differ.
TEST(Xnor, HoldsTheLargestCounts) {
  Random random(3);
  for (const int64_t columns : {480, 496, 3072, 65535, 65536}) {
    Problem problem(random, columns, 5, 1);
    std::fill(problem.scales.begin(), problem.scales.end(), 1.0f);
    for (const int x : {0, 255}) {
      for (const int w : {0, 255}) {
        std::fill(problem.bits.begin(), problem.bits.end(), static_cast<uint8_t>(x));
        std::fill(problem.tiles.begin(), problem.tiles.end(), static_cast<uint8_t>(w));
        const std::vector<float> expected(5 * 16, static_cast<float>(x == w ? columns : -columns));
        for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
          EXPECT_EQ(problem.run(*set, 0, 1), expected) << set->name << ", " << columns;
        }
      }
    }
  }
}

// What rows and weights hold beyond the columns.
TEST(Xnor, IgnoresPadding) {
  Random random(4);
  for (const int64_t columns : {3, 20, 100, 312, 769}) {
    const Problem problem(random, columns, 5, 2);
    Problem other = problem;
    for (int64_t i = columns; i < bqc::round_up(columns, 64); ++i) {
      const auto flip = [&](std::vector<uint8_t>& in, int64_t byte) {
        in[static_cast<size_t>(byte)] ^= static_cast<uint8_t>(1 << i % 8);
      };
      for (int64_t row = 0; row < problem.rows && i / 8 < problem.stride(); ++row) {
        flip(other.bits, row * problem.stride() + i / 8);
      }
      for (int64_t n = 0; n < 32; ++n) {
        flip(other.tiles, n / 16 * problem.strip_bytes() + i / 64 * 128 + i % 64 / 8 * 16 + n % 16);
      }
    }
    EXPECT_NE(other.tiles, problem.tiles);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      other.expect_same(other.run(*set, 0, 2), problem.run(*set, 0, 2), set->name);
    }
  }
}

// A product of 0, of either sign, is +0; large scales overflow to infinities.
TEST(Xnor, ScalesBySpecialNumbers) {
  Random random(5);
  for (const int64_t columns : {2, 3}) {
    Problem problem(random, columns, 20, 1);
    for (size_t i = 0; i < 16; ++i) {
      static const float kScales[] = {0.0f, -0.0f, 3e38f, -3e38f, 1e-45f, -1e-45f, -1.5e-38f};
      problem.scales[i] = kScales[i % 7];
    }
    const std::vector<float> expected = problem.run(bqc::portable::kKernels, 0, 1);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_FALSE(expected[i] == 0.0f && std::signbit(expected[i]));
      EXPECT_TRUE(i % 16 % 7 >= 2 || expected[i] == 0.0f);
    }
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, 0, 1), expected, set->name);
    }
  }
}

TEST(Binarize, SetsWhatIsAboveZero) {
  using Limits = std::numeric_limits<float>;
  static const float kEdges[] = {
      0.0f, -0.0f, Limits::quiet_NaN(), -Limits::quiet_NaN(), Limits::denorm_min(),
      1.0f, -1.0f, Limits::infinity(),  -Limits::infinity(),  -Limits::denorm_min()};
  Random random(6);
  for (const int64_t n : {1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 3072}) {
    std::vector<float> x;
    std::vector<int8_t> codes;
    for (int64_t i = 0; i < n; ++i) {
      x.push_back(kEdges[between(random, 0, 9)]);
      codes.push_back(static_cast<int8_t>(i % 3 ? random() : 0));
    }
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      // One byte more, which is left alone.
      std::vector<uint8_t> floats(static_cast<size_t>(bqc::ceil_div(n, 8)) + 1, 0xa5), integers = floats;
      set->xnor->binarize(x.data(), n, floats.data());
      set->xnor->binarize_codes(codes.data(), n, integers.data());
      for (int64_t i = 0; i < bqc::round_up(n, 8); ++i) {
        const size_t at = static_cast<size_t>(i);
        EXPECT_EQ(floats[at / 8] >> i % 8 & 1, i < n && x[at] > 0) << set->name << ", " << i << " of " << n;
        EXPECT_EQ(integers[at / 8] >> i % 8 & 1, i < n && codes[at] > 0) << set->name << ", " << i;
      }
      EXPECT_EQ(floats.back(), 0xa5);
      EXPECT_EQ(integers.back(), 0xa5);
    }
  }
}

}  // namespace
