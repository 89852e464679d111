// Products with N:M-sparse weights: every ISA level against double loops over the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "ops/level_checks.h"
#include "random.h"

namespace {

using bqc::Geometry;

struct Pattern {
  int kept, of, bits;
};

const Pattern kPatterns[] = {{2, 4, 8}, {1, 4, 8}, {2, 8, 8}, {4, 8, 8},
                             {2, 4, 4}, {1, 4, 4}, {2, 8, 4}, {4, 8, 4}};

struct Problem {
  Geometry g;
  int64_t rows, strips;
  Pattern pattern;
  std::vector<int8_t> codes, exponents;  // [rows][g.length], [rows][g.count]
  std::vector<uint8_t> tiles;
  std::vector<float> scales;

  Problem(Random& random, const Geometry& geometry, int64_t rows, int64_t strips, const Pattern& pattern,
          int64_t low, int64_t high)
      : g(geometry), rows(rows), strips(strips), pattern(pattern) {
    codes = integers<int8_t>(random, rows * g.length, low, high);
    exponents = integers<int8_t>(random, rows * g.count, -12, 4);
    const auto draw = [&](int64_t from, int64_t to) { return between(random, from, to); };
    tiles = bqc::any_sparse_tiles(draw, strips, padded(), pattern.kept, pattern.of, pattern.bits);
    std::normal_distribution<float> normal(0, 1);
    for (int64_t i = 0; i < strips * 16; ++i) scales.push_back(i % 7 ? normal(random) : 0.0f);
  }

  int64_t padded() const { return g.groups * bqc::round_up(g.span, 16); }
  int64_t step() const { return 4 * pattern.of / pattern.kept; }

  // Weights [16 * strips][padded] as the definition of the layout has them.
  std::vector<int> dense() const {
    const int64_t steps = padded() / step(), bytes = static_cast<int64_t>(tiles.size()) / strips;
    std::vector<int> out(static_cast<size_t>(strips * 16 * padded()));
    for (int64_t i = 0; i < strips * steps * 64; ++i) {
      const int64_t strip = i / 64 / steps, at = i / 64 % steps, p = i % 64;
      const uint8_t* planes = tiles.data() + strip * bytes;
      const int code = pattern.bits == 8 ? planes[at * 64 + p] - 128
                                         : (planes[at * 32 + p % 32] >> (p >= 32 ? 4 : 0) & 15) - 8;
      const uint8_t *low = planes + steps * 8 * pattern.bits, *high = low + steps * 16;
      int64_t index = low[at * 16 + p % 16] >> 2 * (p / 16) & 3;
      if (pattern.of == 8) index += 4 * (high[at * 8 + p % 8] >> (p / 8) & 1);
      const int64_t input = at * step() + p % 4 / pattern.kept * pattern.of + index;
      out[static_cast<size_t>((strip * 16 + p / 4) * padded() + input)] += code;
    }
    return out;
  }

  std::vector<float> naive() const {
    const std::vector<int> weights = dense();
    std::vector<float> out;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t n = 0; n < strips * 16; ++n) {
        volatile float acc = 0;  // every step rounded by itself
        for (int64_t block = 0; block < g.count; ++block) {
          const int64_t group = block / g.per_group, from = block % g.per_group * g.block,
                        to = std::min(g.span, from + g.block);
          const int* w = weights.data() + n * padded() + group * bqc::round_up(g.span, 16);
          int32_t dot = 0;
          for (int64_t j = from; j < to; ++j) {
            dot += codes[static_cast<size_t>(row * g.length + group * g.span + j)] * w[j];
          }
          volatile float part = static_cast<float>(dot) * scales[static_cast<size_t>(n)];
          volatile float scaled =
              part * std::ldexp(1.0f, exponents[static_cast<size_t>(row * g.count + block)]);
          acc = acc + scaled;
        }
        out.push_back(static_cast<float>(acc));
      }
    }
    return out;
  }

  // Products [rows][16 * strips] of strips [first, last); 77 elsewhere.
  std::vector<float> run(const bqc::KernelSet& set, int64_t first, int64_t last) const {
    // Memory of exactly the size that was asked for.
    const size_t size = static_cast<size_t>(set.sparse->panel_bytes(&g, rows));
    void* panel = bqc::scratch_bytes(bqc::Slot::panel, size);
    std::memset(panel, 0x5a, size);
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    set.sparse->prepare(&g, codes.data(), g.length, exponents.data(), g.count, rows, panel);
    const bqc::SparseTiles weight = {tiles.data(), scales.data(), strips,
                                     pattern.kept, pattern.of,    pattern.bits};
    set.sparse->multiply(&g, panel, rows, &weight, first, last, out.data(), strips * 16);
    return out;
  }

  void expect_same(const std::vector<float>& a, const std::vector<float>& b, const char* what) const {
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
        << what << ": " << rows << " rows of " << g.length << " in " << g.count << " blocks, " << strips
        << " strips, " << pattern.kept << " of " << pattern.of << " codes of " << pattern.bits << " bits";
  }
};

struct Range {
  int64_t low, high;
};

// Codes of which many products fit 16 bits, one does, and the extremes.
const Range kRanges[] = {{-7, 7},     {-8, 8},      {-9, 9},    {-31, 31}, {-127, 127},
                         {-128, 127}, {-128, -128}, {127, 127}, {0, 0}};

Geometry geometry(Random& random, int64_t length) {
  static const int64_t kBlocks[] = {16, 64, 96, 1104, 1 << 20}, kSpans[] = {26, 32, 64};
  const int64_t span = kSpans[between(random, 0, 2)];
  const bool grouped = length % span == 0 && between(random, 0, 1);
  return bqc::make_geometry(length, kBlocks[between(random, 0, 4)], grouped ? span : 0);
}

TEST(Sparse, EqualTheDefinition) {
  static const int64_t kLengths[] = {1, 15, 26, 64, 100, 312, 416, 1100};
  Random random(1);
  for (int i = 0; i < 144; ++i) {
    const Range& range = kRanges[i % std::size(kRanges)];
    const Problem problem(random, geometry(random, kLengths[between(random, 0, 7)]), between(random, 1, 9),
                          between(random, 1, 3), kPatterns[i % std::size(kPatterns)], range.low, range.high);
    const std::vector<float> expected = problem.naive();
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, 0, problem.strips), expected, set->name);
    }
  }
}

TEST(Sparse, EqualThePortableLevel) {
  static const int64_t kLengths[] = {26, 52, 312, 768, 1040, 3072};
  Random random(2);
  for (int64_t i = 0; i < 140; ++i) {
    const Range& range = kRanges[between(random, 0, std::size(kRanges) - 1)];
    const int64_t strips = between(random, 1, 5), first = between(random, 0, strips - 1),
                  last = between(random, first + 1, strips);
    const Problem problem(random, geometry(random, kLengths[between(random, 0, 5)]), i % 70 + 1, strips,
                          kPatterns[between(random, 0, 7)], range.low, range.high);
    const std::vector<float> expected = problem.run(bqc::portable::kKernels, first, last);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, first, last), expected, set->name);
    }
  }
}

// Sums overflow first where all codes are the largest: over many steps, and where so many just fit.
TEST(Sparse, HoldTheLargestSums) {
  constexpr int64_t kInputs = 8192;
  Random random(3);
  for (const Pattern& pattern : kPatterns) {
    for (const int code : {8, 9, 127, -8, -9, -127, -128}) {
      for (const int sign : {1, -1}) {
        const int64_t rows = code % 2 ? 9 : 5;  // more than are multiplied at once, or not
        Problem problem(random, bqc::make_geometry(kInputs, kInputs, 0), rows, 1, pattern, code, code);
        const int high = (1 << (pattern.bits - 1)) - 1, stored = sign * high + high + 1;
        const int64_t kept = kInputs * pattern.kept / pattern.of;
        std::fill_n(problem.tiles.begin(), kept * 2 * pattern.bits,
                    static_cast<uint8_t>(pattern.bits == 8 ? stored : stored * 17));
        std::fill(problem.scales.begin(), problem.scales.end(), 1.0f);
        std::fill(problem.exponents.begin(), problem.exponents.end(), int8_t{0});
        const std::vector<float> expected(static_cast<size_t>(rows * 16),
                                          static_cast<float>(code * sign * high * kept));
        for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
          EXPECT_EQ(problem.run(*set, 0, 1), expected)
              << set->name << ", " << code << " times " << sign * high << ", " << pattern.kept << " of "
              << pattern.of;
        }
      }
    }
  }
}

// Where overflow makes infinities and NaN, levels agree too.
TEST(Sparse, AgreeWhereScalesOverflow) {
  Random random(5);
  for (const Pattern& pattern : kPatterns) {
    Problem problem(random, bqc::make_geometry(96, 32, 0), 9, 2, pattern, -127, 127);
    for (size_t i = 0; i < problem.scales.size(); ++i) problem.scales[i] = i % 2 ? 3e38f : -1e-45f;
    const std::vector<float> bias(32, 0.5f);
    const auto finished = [&](const bqc::KernelSet& set) {
      std::vector<float> y = problem.run(set, 0, 2), out(y.size());
      for (int64_t row = 0; row < problem.rows; ++row) {
        set.rows->add_bias(y.data() + row * 32, bias.data(), 32, out.data() + row * 32);
      }
      return out;
    };
    const std::vector<float> expected = finished(bqc::portable::kKernels);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(finished(*set), expected, set->name);
    }
  }
}

}  // namespace
