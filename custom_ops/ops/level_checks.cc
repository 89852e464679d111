#include "ops/level_checks.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <random>

#include "ops/common.h"

namespace bqc {

#include "kernels/sparse.inc"

namespace {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  int64_t between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }

  // Inlined, GCC 12 takes the vector for one that it frees in the middle.
  template <class T>
  __attribute__((noinline)) std::vector<T> bytes(int64_t n, int64_t low, int64_t high) {
    std::vector<T> out(static_cast<size_t>(n));
    for (T& x : out) x = static_cast<T>(between(low, high));
    return out;
  }

  // A mixture of ordinary values, any bit pattern, and values where rules change.
  std::vector<float> floats(int64_t n) {
    static const float kEdges[] = {0.0f,
                                   -0.0f,
                                   1e-45f,
                                   0x1p-126f,
                                   -0x1p-126f,
                                   0x1.fffffcp-127f,
                                   0x1p127f,
                                   -0x1p127f,
                                   0.5f,
                                   1.5f,
                                   2.5f,
                                   127.5f,
                                   5.0f,
                                   -5.0f,
                                   9.0f,
                                   -9.0f,
                                   3.4028235e38f,
                                   -3.4028235e38f,
                                   std::numeric_limits<float>::infinity(),
                                   -std::numeric_limits<float>::infinity(),
                                   std::numeric_limits<float>::quiet_NaN()};
    std::normal_distribution<float> normal(0, 2);
    const int64_t kind = between(0, 2);
    std::vector<float> out(static_cast<size_t>(n));
    for (float& x : out) {
      x = normal(engine_);
      const int64_t dice = between(0, 19);
      if (kind == 1 && dice == 0) x = kEdges[between(0, std::size(kEdges) - 1)];
      if (kind == 2) {
        const uint32_t bits = static_cast<uint32_t>(engine_());
        std::memcpy(&x, &bits, sizeof x);
      }
    }
    return out;
  }

 private:
  std::mt19937 engine_;
};

// Result buffers of both levels, filled alike so that stray writes show too.
template <class T>
struct Both {
  std::vector<T> a, b;
  explicit Both(int64_t n) : a(static_cast<size_t>(n) + 64, T(77)), b(a) {}
  explicit Both(const std::vector<T>& start) : a(start), b(start) {}
  bool same() const { return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0; }
};

class Comparison {
 public:
  Comparison(const KernelSet& expected, const KernelSet& actual, uint32_t seed)
      : x_(expected), y_(actual), random_(seed) {}

  std::vector<LevelCheck> run() {
    static const int64_t kLengths[] = {1, 7, 16, 26, 64, 312, 384, 768};
    for (const int64_t n : kLengths) functions(n);
    for (const int64_t n : kLengths) quantisation(n);
    for (const int64_t n : kLengths) sign_rows(n);
    for (const int bits : {8, 6, 4, 3, 2}) {
      for (int i = 0; i < 6 && y_.gemm->supports(bits); ++i) product(bits);
      for (const int64_t n : kLengths) unpacking(bits, n);
    }
    for (int i = 0; i < 12; ++i) signs();
    for (const int64_t n : kLengths) halves(n);
    for (int i = 0; i < 12; ++i) half_product();
    for (int i = 0; i < 12; ++i) xnor();
    for (int i = 0; i < 16; ++i) sparse(i);
    for (int i = 0; i < 6; ++i) attention();
    for (int i = 0; i < 8; ++i) float_attention();
    return std::move(checks_);
  }

 private:
  template <class... Parts>
  void note(bool same, const Parts&... parts) {
    checks_.push_back({(text_of(parts) + ...), same});
  }

  Geometry geometry(int64_t length) {
    static const int64_t kBlocks[] = {16, 32, 64, 128, 256, 1 << 20};
    static const int64_t kSpans[] = {26, 32, 64};
    const int64_t span = kSpans[random_.between(0, 2)];
    const bool grouped = length % span == 0 && random_.between(0, 1);
    return make_geometry(length, kBlocks[random_.between(0, 5)], grouped ? span : 0);
  }

  void functions(int64_t n) {
    const auto in = random_.floats(n), gamma = random_.floats(n), beta = random_.floats(n);
    Both<float> y(n);
    for (const int approximate : {0, 1}) {
      x_.rows->gelu(in.data(), n, approximate, y.a.data());
      y_.rows->gelu(in.data(), n, approximate, y.b.data());
      note(y.same(), "gelu ", approximate, " of ", n);
    }
    x_.rows->tanh(in.data(), n, y.a.data());
    y_.rows->tanh(in.data(), n, y.b.data());
    note(y.same(), "tanh of ", n);
    std::vector<int32_t> q(static_cast<size_t>(n));
    x_.rows->layer_norm(in.data(), gamma.data(), beta.data(), 1e-12f, n, q.data(), y.a.data());
    y_.rows->layer_norm(in.data(), gamma.data(), beta.data(), 1e-12f, n, q.data(), y.b.data());
    note(y.same(), "layer norm of ", n);
    x_.rows->add_bias(in.data(), beta.data(), n, y.a.data());
    y_.rows->add_bias(in.data(), beta.data(), n, y.b.data());
    note(y.same(), "bias of ", n);
    x_.rows->scale(in.data(), 0.125f, n, y.a.data());
    y_.rows->scale(in.data(), 0.125f, n, y.b.data());
    note(y.same(), "scale of ", n);
    const auto keep = random_.bytes<int32_t>(n, -1, 0);
    Both<float> scores(in);
    Both<uint8_t> codes(n);
    for (const int alive : {1, 0}) {
      x_.rows->softmax(scores.a.data(), keep.data(), alive, n, codes.a.data());
      y_.rows->softmax(scores.b.data(), keep.data(), alive, n, codes.b.data());
      note(codes.same(), "softmax ", alive, " of ", n);
    }
    note(x_.rows->sum_codes(codes.a.data(), n) == y_.rows->sum_codes(codes.a.data(), n), "sum of ", n);
  }

  void quantisation(int64_t n) {
    const Geometry g = geometry(n);
    const auto in = random_.floats(n);
    for (const int bits : {8, 6, 4}) {
      Both<int8_t> codes(n), exponents(g.count);
      x_.rows->quantize(in.data(), &g, bits, codes.a.data(), exponents.a.data());
      y_.rows->quantize(in.data(), &g, bits, codes.b.data(), exponents.b.data());
      note(codes.same() && exponents.same(), "quantize ", bits, " bits, ", n, " in ", g.count, " blocks");
      const auto other = random_.floats(n);
      x_.rows->encode(other.data(), exponents.a.data(), &g, bits, codes.a.data());
      y_.rows->encode(other.data(), exponents.a.data(), &g, bits, codes.b.data());
      note(codes.same(), "encode ", bits, " bits, ", n, " in ", g.count, " blocks");
      Both<float> y(n);
      x_.rows->dequantize(codes.a.data(), exponents.a.data(), &g, y.a.data());
      y_.rows->dequantize(codes.a.data(), exponents.a.data(), &g, y.b.data());
      x_.rows->add_dequantized(codes.a.data(), exponents.a.data(), &g, y.a.data());
      y_.rows->add_dequantized(codes.a.data(), exponents.a.data(), &g, y.b.data());
      note(y.same(), "dequantize ", n, " in ", g.count, " blocks");
      Both<int32_t> largest(std::vector<int32_t>(static_cast<size_t>(n), 0));
      x_.rows->magnitudes(in.data(), n, largest.a.data());
      y_.rows->magnitudes(in.data(), n, largest.b.data());
      x_.rows->exponents(largest.a.data(), &g, bits, exponents.a.data());
      y_.rows->exponents(largest.a.data(), &g, bits, exponents.b.data());
      note(largest.same() && exponents.same(), "exponents ", bits, " bits, ", n, " in ", g.count, " blocks");
    }
  }

  void sign_rows(int64_t columns) {
    const auto packed = random_.bytes<uint8_t>(ceil_div(columns, 8), 0, 255);
    const float scales[] = {static_cast<float>(random_.between(-9, 9)), 0x1.3p-10f};
    Both<float> y(columns);
    for (const int add : {0, 1}) {
      x_.rows->signs(packed.data(), scales[add], columns, add, y.a.data());
      y_.rows->signs(packed.data(), scales[add], columns, add, y.b.data());
      note(y.same(), "table row of signs ", add, " of ", columns);
    }
  }

  void unpacking(int bits, int64_t columns) {
    const auto packed = random_.bytes<uint8_t>(table_row_bytes(columns, bits), 0, 255);
    Both<int8_t> codes(round_up(columns, 8));
    x_.rows->unpack_row(packed.data(), bits, columns, codes.a.data());
    y_.rows->unpack_row(packed.data(), bits, columns, codes.b.data());
    note(codes.same(), "table row ", bits, " bits of ", columns);
    const int64_t inputs = round_up(columns, 16), last_lane = 60;
    const auto strip = random_.bytes<uint8_t>(tile_count(inputs, bits) * 64, 0, 255);
    Both<int8_t> lane(inputs);
    x_.rows->unpack_lane(strip.data() + last_lane, bits, columns, lane.a.data());
    y_.rows->unpack_lane(strip.data() + last_lane, bits, columns, lane.b.data());
    note(lane.same(), "lane of tiles ", bits, " bits of ", columns);
  }

  std::vector<float> multiply(const KernelSet& set, const Geometry& g, int bits, int64_t rows,
                              const std::vector<int8_t>& codes, const std::vector<int8_t>& exponents,
                              const uint8_t* weight, const std::vector<int8_t>& weight_exponents,
                              int64_t strips, int64_t first, int64_t last) {
    std::vector<char> panel(static_cast<size_t>(set.gemm->panel_bytes(&g, rows)) + 64);
    char* aligned = panel.data() + (64 - reinterpret_cast<uintptr_t>(panel.data()) % 64) % 64;
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    set.gemm->prepare(&g, bits, codes.data(), g.length, exponents.data(), g.count, rows, aligned);
    set.gemm->multiply(&g, bits, aligned, rows, weight, weight_exponents.data(), strips, first, last,
                       out.data(), strips * 16);
    return out;
  }

  enum class Exponents { tame, wild, near, low, high };

  // Exponents that kernels may add up as they are lie in -63 .. 48. Low and high ones lie at an end, with
  // some beyond.
  std::vector<int8_t> some_exponents(Exponents kind, int64_t n) {
    if (kind == Exponents::tame) return random_.bytes<int8_t>(n, -12, -2);
    if (kind == Exponents::wild) return random_.bytes<int8_t>(n, -126, 126);
    if (kind == Exponents::near) return random_.bytes<int8_t>(n, -63, 48);
    const bool low = kind == Exponents::low;
    auto out = random_.bytes<int8_t>(n, low ? -63 : 46, low ? -61 : 48);
    const int64_t beyond = random_.between(0, 3);
    for (int64_t i = 0; i < beyond; ++i) {
      out[static_cast<size_t>(random_.between(0, n - 1))] = static_cast<int8_t>(low ? -64 : 49);
    }
    return out;
  }

  void product(int bits) {
    static const int64_t kInputs[] = {26, 64, 96, 130, 312, 384, 768};
    const Geometry g = geometry(kInputs[random_.between(0, 6)]);
    const int64_t rows = random_.between(1, 40), strips = random_.between(1, 6);
    const int64_t first = random_.between(0, strips - 1), last = random_.between(first + 1, strips);
    const int64_t inputs = g.groups * round_up(g.span, 16);
    const auto kind = static_cast<Exponents>(random_.between(0, 4));
    auto codes = random_.bytes<int8_t>(rows * g.length, -128, 127);
    auto exponents = some_exponents(kind, rows * g.count);
    // A block of zeros has the least exponent.
    if (random_.between(0, 2) == 0) {
      const int64_t row = random_.between(0, rows - 1);
      std::fill_n(codes.begin() + row * g.length, g.length, int8_t{0});
      std::fill_n(exponents.begin() + row * g.count, g.count, int8_t{-126});
    }
    // One byte more, so that the weights are not aligned.
    const auto weight = random_.bytes<uint8_t>(strips * tile_count(inputs, bits) * 64 + 1, 0, 255);
    const auto weight_exponents = some_exponents(kind, strips * 16 * g.count);
    const auto a = multiply(x_, g, bits, rows, codes, exponents, weight.data() + 1, weight_exponents, strips,
                            first, last);
    const auto b = multiply(y_, g, bits, rows, codes, exponents, weight.data() + 1, weight_exponents, strips,
                            first, last);
    note(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, "product ", bits, " bits, rows ",
         rows, ", inputs ", g.length, " in ", g.count, " blocks, strips ", first, " to ", last);
  }

  std::vector<float> multiply(const KernelSet& set, const Geometry& g, int64_t rows,
                              const std::vector<int8_t>& codes, const std::vector<int8_t>& exponents,
                              const SignPlanes& planes, int64_t first, int64_t last) {
    void* panel = scratch_bytes(Slot::panel, static_cast<size_t>(set.signs->panel_bytes(&g, rows)));
    std::vector<float> out(static_cast<size_t>(rows * planes.strips * 16), 77.0f);
    set.signs->prepare(&g, codes.data(), g.length, exponents.data(), g.count, rows, panel);
    set.signs->multiply(&g, panel, rows, &planes, first, last, out.data(), planes.strips * 16);
    return out;
  }

  void signs() {
    static const int64_t kInputs[] = {26, 64, 96, 312, 384, 768, 1560};
    static const int64_t kLargest[] = {7, 10, 15, 31, 127, 128};
    const Geometry g = geometry(kInputs[random_.between(0, 6)]);
    const int64_t rows = random_.between(1, 40), strips = random_.between(1, 6),
                  planes = random_.between(1, 2), largest = kLargest[random_.between(0, 5)];
    const int64_t first = random_.between(0, strips - 1), last = random_.between(first + 1, strips);
    const auto codes = random_.bytes<int8_t>(rows * g.length, -largest, largest < 128 ? largest : 127);
    const auto exponents = random_.bytes<int8_t>(rows * g.count, -12, 4);
    const auto bits =
        random_.bytes<uint8_t>(planes * strips * g.groups * round_up(g.span, 16) * 2 + 1, 0, 255);
    std::vector<float> scales(static_cast<size_t>(planes * strips * 16));
    for (float& scale : scales) scale = static_cast<float>(random_.between(-1000, 1000)) * 0x1.3p-10f;
    const SignPlanes weight = {bits.data() + 1, scales.data(), planes, strips};
    const auto a = multiply(x_, g, rows, codes, exponents, weight, first, last);
    const auto b = multiply(y_, g, rows, codes, exponents, weight, first, last);
    note(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, "signs in ", planes,
         " planes, codes up to ", largest, ", rows ", rows, ", inputs ", g.length, " in ", g.count,
         " blocks, strips ", first, " to ", last);
  }

  void halves(int64_t n) {
    const auto in = random_.floats(n);
    const auto packed = random_.bytes<uint16_t>(n, 0, 0xffff);
    Both<float> y(n);
    x_.half->round(in.data(), n, y.a.data());
    y_.half->round(in.data(), n, y.b.data());
    note(y.same(), "rounding to fp16 of ", n);
    Both<float> wide(n);
    x_.half->widen(packed.data(), n, wide.a.data());
    y_.half->widen(packed.data(), n, wide.b.data());
    note(wide.same(), "fp16 widened of ", n);
  }

  std::vector<float> multiply(const KernelSet& set, const std::vector<float>& x, int64_t rows,
                              const HalfTiles& weight, int64_t strips, int64_t first, int64_t last) {
    float* panel = scratch<float>(Slot::panel, rows * weight.inputs);
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    set.half->products.prepare(x.data(), weight.inputs, rows, panel);
    set.half->products.multiply(panel, rows, &weight, first, last, out.data(), strips * 16);
    return out;
  }

  void half_product() {
    static const int64_t kInputs[] = {1, 7, 40, 255, 256, 257, 600};
    const int64_t inputs = kInputs[random_.between(0, 6)], rows = random_.between(1, 20),
                  strips = random_.between(1, 9);
    const int64_t first = random_.between(0, strips - 1), last = random_.between(first + 1, strips);
    const auto x = random_.floats(rows * inputs);
    const bool indices = random_.between(0, 1);
    const int64_t count = strips * inputs * 16;
    // Signs and exponents of all kinds, but neither infinities nor NaN, whose bits no definition gives.
    auto halves = random_.bytes<uint16_t>(count, 0, 0xffff);
    for (uint16_t& h : halves) h = static_cast<uint16_t>((h & 0x7c00) == 0x7c00 ? h ^ 0x4000 : h);
    const auto codes = random_.bytes<uint8_t>(count, 0, 255);
    std::vector<float> table(256);
    x_.half->widen(halves.data(), std::min<int64_t>(count, 256), table.data());
    const HalfTiles weight = {indices ? nullptr : halves.data(), codes.data(), table.data(), inputs};
    const auto a = multiply(x_, x, rows, weight, strips, first, last);
    const auto b = multiply(y_, x, rows, weight, strips, first, last);
    note(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, indices ? "indices" : "fp16",
         " product, rows ", rows, ", inputs ", inputs, ", strips ", first, " to ", last);
  }

  std::vector<float> multiply(const KernelSet& set, const BitTiles& weight, int64_t rows,
                              const std::vector<uint8_t>& bits, int64_t first, int64_t last) {
    void* panel =
        scratch_bytes(Slot::panel, static_cast<size_t>(set.xnor->panel_bytes(weight.columns, rows)));
    std::vector<float> out(static_cast<size_t>(rows * weight.strips * 16), 77.0f);
    set.xnor->prepare(weight.columns, bits.data(), ceil_div(weight.columns, 8), rows, panel);
    set.xnor->multiply(panel, rows, &weight, first, last, out.data(), weight.strips * 16);
    return out;
  }

  void xnor() {
    const int64_t columns = random_.between(1, 2000), rows = random_.between(1, 40),
                  strips = random_.between(1, 6), first = random_.between(0, strips - 1),
                  last = random_.between(first + 1, strips);
    const auto bits = random_.bytes<uint8_t>(rows * ceil_div(columns, 8), 0, 255);
    // One byte more, so that the weights are not aligned.
    const auto tiles = random_.bytes<uint8_t>(strips * round_up(columns, 64) * 2 + 1, 0, 255);
    std::vector<float> scales(static_cast<size_t>(strips * 16));
    for (float& scale : scales) scale = static_cast<float>(random_.between(-1000, 1000)) * 0x1.3p-10f;
    const BitTiles weight = {tiles.data() + 1, scales.data(), columns, strips};
    const auto a = multiply(x_, weight, rows, bits, first, last);
    const auto b = multiply(y_, weight, rows, bits, first, last);
    note(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, "signs by signs, rows ", rows,
         ", inputs ", columns, ", strips ", first, " to ", last);
    const auto in = random_.floats(columns);
    const auto codes = random_.bytes<int8_t>(columns, -2, 2);
    Both<uint8_t> found(ceil_div(columns, 8));
    x_.xnor->binarize(in.data(), columns, found.a.data());
    y_.xnor->binarize(in.data(), columns, found.b.data());
    note(found.same(), "signs of ", columns);
    x_.xnor->binarize_codes(codes.data(), columns, found.a.data());
    y_.xnor->binarize_codes(codes.data(), columns, found.b.data());
    note(found.same(), "signs of codes of ", columns);
  }

  void sparse(int i) {
    static const int64_t kInputs[] = {26, 64, 96, 312, 384, 768, 1560};
    static const int64_t kLargest[] = {8, 127, 128};
    const Geometry g = geometry(kInputs[random_.between(0, 6)]);
    const int64_t rows = random_.between(1, 40), strips = random_.between(1, 6),
                  largest = kLargest[random_.between(0, 2)];
    const int64_t first = random_.between(0, strips - 1), last = random_.between(first + 1, strips);
    const int of = i % 2 ? 8 : 4, kept = i / 2 % 2 ? 2 : of == 8 ? 4 : 1, bits = i / 4 % 2 ? 4 : 8;
    const auto codes = random_.bytes<int8_t>(rows * g.length, -largest, largest < 128 ? largest : 127);
    const auto exponents = random_.bytes<int8_t>(rows * g.count, -12, 4);
    const auto draw = [this](int64_t low, int64_t high) { return random_.between(low, high); };
    const auto tiles = any_sparse_tiles(draw, strips, g.groups * round_up(g.span, 16), kept, of, bits);
    std::vector<float> scales(static_cast<size_t>(strips * 16));
    for (float& scale : scales) scale = static_cast<float>(random_.between(-1000, 1000)) * 0x1.3p-10f;
    const SparseTiles weight = {tiles.data(), scales.data(), strips, kept, of, bits};
    const auto multiply = [&](const KernelSet& set) {
      void* panel = scratch_bytes(Slot::panel, static_cast<size_t>(set.sparse->panel_bytes(&g, rows)));
      std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
      set.sparse->prepare(&g, codes.data(), g.length, exponents.data(), g.count, rows, panel);
      set.sparse->multiply(&g, panel, rows, &weight, first, last, out.data(), strips * 16);
      return out;
    };
    const auto a = multiply(x_), b = multiply(y_);
    note(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0, kept, " of ", of, " codes of ", bits,
         " bits, activations up to ", largest, ", rows ", rows, ", inputs ", g.length, " in ", g.count,
         " blocks, strips ", first, " to ", last);
  }

  void attention() {
    static const int64_t kWidths[] = {26, 32, 64, 80};
    const int64_t width = kWidths[random_.between(0, 3)], keys = random_.between(1, 70),
                  rows = random_.between(1, 30);
    const int64_t stride = width + random_.between(0, 40), strips = ceil_div(keys, 16);
    const Geometry g = make_geometry(width, random_.between(0, 1) ? 16 : 64, 0);
    const auto key = random_.bytes<int8_t>(keys * stride, -128, 127);
    Both<uint8_t> tiles(strips * 16 * round_up(width, 16));
    x_.gemm->pack_keys(key.data(), stride, keys, &g, tiles.a.data());
    y_.gemm->pack_keys(key.data(), stride, keys, &g, tiles.b.data());
    note(tiles.same(), "packed keys ", keys, " of ", width);
    const int64_t wide = round_up(width, 16), padded = round_up(keys, 4);
    Both<int8_t> values(wide * padded);
    x_.gemm->pack_values(key.data(), stride, keys, width, values.a.data());
    y_.gemm->pack_values(key.data(), stride, keys, width, values.b.data());
    note(values.same(), "packed values ", keys, " of ", width);
    auto codes = random_.bytes<uint8_t>(rows * padded, 0, 255);
    Both<int32_t> dot(rows * wide);
    x_.gemm->mix(codes.data(), padded, rows, values.a.data(), keys, wide / 16, dot.a.data(), wide);
    y_.gemm->mix(codes.data(), padded, rows, values.a.data(), keys, wide / 16, dot.b.data(), wide);
    const auto exponents = random_.bytes<int8_t>(g.count, -126, 127);
    Both<float> y(width);
    x_.rows->context(dot.a.data(), exponents.data(), &g, 1000, y.a.data());
    y_.rows->context(dot.a.data(), exponents.data(), &g, 1000, y.b.data());
    note(dot.same() && y.same(), "context of ", rows, " rows, ", keys, " keys of ", width);
  }

  void float_attention() {
    static const int64_t kWidths[] = {1, 26, 32, 64, 80};
    const int64_t width = kWidths[random_.between(0, 4)], keys = random_.between(1, 70),
                  rows = random_.between(1, 70), stride = width + random_.between(0, 40);
    const auto q = random_.floats(rows * stride);
    Both<float> packed(random_.floats(2 * keys * width));
    x_.float_attention->sanitize(packed.a.data(), 2 * keys * width, packed.a.data());
    y_.float_attention->sanitize(packed.b.data(), 2 * keys * width, packed.b.data());
    const float* key = packed.a.data();
    const int alike = random_.between(0, 3) == 0;
    const FloatHead head = {key,   key + keys * width, width, keys, random_.between(0, 1) ? 0.125f : 1.0f,
                            alike, alike ? 3 : 0};
    Both<float> y(rows * stride);
    for (const bool first : {true, false}) {
      const FloatAttentionKernels& kernels = *(first ? x_ : y_).float_attention;
      float* memory = scratch<float>(Slot::tile, kernels.memory(&head));
      kernels.attend(&head, q.data(), stride, rows, memory, (first ? y.a : y.b).data());
    }
    note(packed.same() && y.same(), "float attention of ", rows, " queries, ", keys, " keys of ", width);
  }

  const KernelSet &x_, &y_;
  Random random_;
  std::vector<LevelCheck> checks_;
};

}  // namespace

std::vector<LevelCheck> compare_levels(const KernelSet& expected, const KernelSet& actual, uint32_t seed) {
  return Comparison(expected, actual, seed).run();
}

std::vector<uint8_t> any_sparse_tiles(const std::function<int64_t(int64_t, int64_t)>& draw, int64_t strips,
                                      int64_t inputs, int kept, int of, int bits) {
  const int64_t steps = inputs * kept / of / 4, high = (1 << (bits - 1)) - 1;
  std::vector<uint8_t> tiles(static_cast<size_t>(strips * steps * (8 * bits + (of == 8 ? 24 : 16))));
  const SparseTiles w = {tiles.data(), nullptr, strips, kept, of, bits};
  const auto set = [&](const uint8_t* at, int64_t bits_there) {
    uint8_t& byte = tiles[static_cast<size_t>(at - tiles.data())];
    byte = static_cast<uint8_t>(byte | bits_there);
  };
  for (int64_t strip = 0; strip < strips; ++strip) {
    const SparseStrip planes = strip_of(w, inputs, strip);
    for (int64_t step = 0; step < steps; ++step) {
      int64_t index = -1;
      for (int p = 0; p < 64; ++p) {
        // Ascending, and leaving as many as there are slots to come.
        const int slot = p % 4 % kept;
        index = draw(slot ? index + 1 : 0, of - kept + slot);
        const int64_t code = draw(-high, high) + high + 1;
        if (bits == 8) {
          set(planes.codes + step * 64 + p, code);
        } else {
          set(planes.codes + step * 32 + p % 32, code << p / 32 * 4);
        }
        set(planes.low + step * 16 + p % 16, (index & 3) << p / 16 * 2);
        if (of == 8) set(planes.high + step * 8 + p % 8, index >> 2 << p / 8);
      }
    }
  }
  return tiles;
}

}  // namespace bqc
