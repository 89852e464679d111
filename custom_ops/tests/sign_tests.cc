// Products with weights of signs: every ISA level against double loops over the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "random.h"
#include "rounds.h"

namespace {

using bqc::Geometry;

struct Problem {
  Geometry g;
  int64_t rows, strips, planes;
  std::vector<int8_t> codes, exponents;  // [rows][g.length], [rows][g.count]
  std::vector<uint8_t> bits;
  std::vector<float> scales;

  Problem(Random& random, const Geometry& geometry, int64_t rows, int64_t strips, int64_t planes, int64_t low,
          int64_t high)
      : g(geometry), rows(rows), strips(strips), planes(planes) {
    codes = integers<int8_t>(random, rows * g.length, low, high);
    exponents = integers<int8_t>(random, rows * g.count, -12, 4);
    bits = integers<uint8_t>(random, planes * strips * tiles() * 32, 0, 255);
    std::normal_distribution<float> normal(0, 1);
    for (int64_t i = 0; i < planes * strips * 16; ++i) scales.push_back(i % 7 ? normal(random) : 0.0f);
  }

  int64_t tiles() const { return g.groups * bqc::round_up(g.span, 16) / 16; }

  // The sign that a padded input has for an output.
  int sign(int64_t plane, int64_t output, int64_t input) const {
    const int64_t within = input % 16, h = within / 4 % 2, b = within / 8 * 4 + within % 4;
    const int64_t byte = (((plane * strips + output / 16) * tiles() + input / 16) * 2 + h) * 16 + output % 16;
    return bits[static_cast<size_t>(byte)] >> b & 1 ? 1 : -1;
  }

  float naive(int64_t row, int64_t output) const {
    volatile float acc = 0;  // every step rounded by itself
    for (int64_t block = 0; block < g.count; ++block) {
      const int64_t group = block / g.per_group, from = block % g.per_group * g.block,
                    to = std::min(g.span, from + g.block);
      volatile float total = 0;
      for (int64_t p = 0; p < planes; ++p) {
        int32_t dot = 0;
        for (int64_t j = from; j < to; ++j) {
          dot += codes[static_cast<size_t>(row * g.length + group * g.span + j)] *
                 sign(p, output, group * bqc::round_up(g.span, 16) + j);
        }
        volatile float part = static_cast<float>(dot) * scales[static_cast<size_t>(p * strips * 16 + output)];
        total = p ? total + part : part;
      }
      volatile float scaled = total * std::ldexp(1.0f, exponents[static_cast<size_t>(row * g.count + block)]);
      acc = acc + scaled;
    }
    return acc;
  }

  // Products [rows][16 * strips] of strips [first, last); 77 elsewhere.
  std::vector<float> run(const bqc::KernelSet& set, int64_t first, int64_t last) const {
    // Memory of exactly the size that was asked for.
    const size_t size = static_cast<size_t>(set.signs->panel_bytes(&g, rows));
    void* panel = bqc::scratch_bytes(bqc::Slot::panel, size);
    std::memset(panel, 0x5a, size);
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    set.signs->prepare(&g, codes.data(), g.length, exponents.data(), g.count, rows, panel);
    const bqc::SignPlanes weight = {bits.data(), scales.data(), planes, strips};
    set.signs->multiply(&g, panel, rows, &weight, first, last, out.data(), strips * 16);
    return out;
  }

  // Compares the bytes of a level's products with those of another's.
  void expect_same(const std::vector<float>& a, const std::vector<float>& b, const char* what) const {
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
        << what << ": " << rows << " rows of " << g.length << " in " << g.count << " blocks, " << strips
        << " strips, " << planes << " planes";
  }
};

struct Range {
  int64_t low, high;
};

// Codes of which one, two, three and four tiles fit a byte; of which some, and all, are split; and the
// extremes.
const Range kRanges[] = {{-7, 7},   {-8, 8},     {-10, 10},   {-15, 15},    {-31, 31},  {-63, 63},
                         {-72, 72}, {-127, 127}, {-128, 127}, {-128, -128}, {127, 127}, {0, 0}};

Geometry geometry(Random& random, int64_t length) {
  static const int64_t kBlocks[] = {16, 64, 96, 1 << 20}, kSpans[] = {26, 32, 64};
  const int64_t span = kSpans[between(random, 0, 2)];
  const bool grouped = length % span == 0 && between(random, 0, 1);
  return bqc::make_geometry(length, kBlocks[between(random, 0, 3)], grouped ? span : 0);
}

TEST(Signs, EqualTheDefinition) {
  static const int64_t kLengths[] = {1, 15, 26, 64, 100, 312, 416, 1100};
  Random random(1);
  for (int i = 0; i < rounds(60); ++i) {
    const Range& range = kRanges[i % std::size(kRanges)];
    const Problem problem(random, geometry(random, kLengths[between(random, 0, 7)]), between(random, 1, 9),
                          between(random, 1, 3), 1 + i % 2, range.low, range.high);
    std::vector<float> expected;
    for (int64_t row = 0; row < problem.rows; ++row) {
      for (int64_t n = 0; n < problem.strips * 16; ++n) expected.push_back(problem.naive(row, n));
    }
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, 0, problem.strips), expected, set->name);
    }
  }
}

TEST(Signs, EqualThePortableLevel) {
  static const int64_t kLengths[] = {26, 52, 312, 768, 1040, 3072};
  Random random(2);
  for (int i = 0; i < rounds(120); ++i) {
    const Range& range = kRanges[between(random, 0, std::size(kRanges) - 1)];
    const int64_t strips = between(random, 1, i % 10 ? 5 : 70), first = between(random, 0, strips - 1),
                  last = between(random, first + 1, strips);
    const Problem problem(random, geometry(random, kLengths[between(random, 0, 5)]),
                          between(random, 1, i % 10 ? 20 : 70), strips, between(random, 1, 2), range.low,
                          range.high);
    const std::vector<float> expected = problem.run(bqc::portable::kKernels, first, last);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      problem.expect_same(problem.run(*set, first, last), expected, set->name);
    }
  }
}

// Sums overflow first where every sign agrees with its code: over many tiles, and where so many just fit.
TEST(Signs, HoldTheLargestSums) {
  constexpr int64_t kInputs = 8192;
  Random random(3);
  for (const int code : {7, 8, 10, 11, 15, 16, 31, 32, 63, 64, 120, 127, -1, -8, -31, -128}) {
    for (const int stored : {0, 0xff}) {
      Problem problem(random, bqc::make_geometry(kInputs, kInputs, 0), 5, 1, 1, code, code);
      std::fill(problem.bits.begin(), problem.bits.end(), static_cast<uint8_t>(stored));
      std::fill(problem.scales.begin(), problem.scales.end(), 1.0f);
      std::fill(problem.exponents.begin(), problem.exponents.end(), int8_t{0});
      const std::vector<float> expected(5 * 16, static_cast<float>((stored ? code : -code) * kInputs));
      for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
        EXPECT_EQ(problem.run(*set, 0, 1), expected) << set->name << ", " << code << " times " << stored;
      }
    }
  }
}

// The last inputs of a group and the signs beyond them.
TEST(Signs, IgnorePadding) {
  Random random(4);
  Problem problem(random, bqc::make_geometry(52, 16, 26), 6, 2, 2, -128, 127);
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    const std::vector<float> expected = problem.run(*set, 0, 2);
    Problem other = problem;
    for (size_t i = 0; i < other.bits.size(); ++i) {
      if (i / 32 % 2 == 0) continue;  // inputs 16 to 25 are in the second tile of a group, 10 to 15 of it pad
      other.bits[i] ^= static_cast<uint8_t>(i / 16 % 2 ? 0xf0 : 0xc0);
    }
    EXPECT_NE(other.bits, problem.bits);
    other.expect_same(other.run(*set, 0, 2), expected, set->name);
  }
}

// Where overflow makes infinities and NaN, levels agree too.
TEST(Signs, AgreeWhereScalesOverflow) {
  Random random(5);
  Problem problem(random, bqc::make_geometry(96, 32, 0), 9, 2, 2, -127, 127);
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

}  // namespace
