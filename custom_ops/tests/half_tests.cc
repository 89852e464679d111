// Weights of fp16 numbers: every ISA level against loops over the definition.
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

// An fp16 number by its fields.
double value_of(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return half & 0x8000 ? -magnitude : magnitude;
}

// x rounded to fp16, by arithmetic on doubles.
float rounded(float x) {
  if (std::isnan(x)) return 0.0f;
  if (std::fabs(x) >= 65504) return std::copysign(65504.0f, x);
  int exponent = 0;
  std::frexp(x, &exponent);
  const int spacing = std::max(exponent - 11, -24);
  return std::copysign(static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(x, -spacing)), spacing)), x);
}

bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0; }

TEST(Half, RoundsToTheNearest) {
  std::vector<float> x;
  // Around every fp16 number and every middle of two, of both signs.
  for (uint32_t half = 0; half < 0x7c00; ++half) {
    const auto here = static_cast<float>(value_of(static_cast<uint16_t>(half)));
    const auto next =
        half + 1 < 0x7c00 ? static_cast<float>(value_of(static_cast<uint16_t>(half + 1))) : 65536.0f;
    for (const float at : {here, (here + next) / 2}) {
      for (const float sign : {1.0f, -1.0f}) {
        x.insert(x.end(), {sign * at, sign * std::nextafter(at, 0.0f), sign * std::nextafter(at, 1e30f)});
      }
    }
  }
  using Limits = std::numeric_limits<float>;
  x.insert(x.end(), {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(), -Limits::quiet_NaN(),
                     Limits::max(), -Limits::max(), Limits::denorm_min(), -Limits::denorm_min()});
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    float any;
    std::memcpy(&any, &bits, sizeof any);
    x.push_back(any);
  }
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    std::vector<float> y(x.size());
    set->half->round(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_TRUE(same(y[i], rounded(x[i]))) << set->name << ": " << x[i] << " to " << y[i];
    }
  }
}

TEST(Half, WidensEveryNumber) {
  std::vector<uint16_t> all;
  for (uint32_t half = 0; half < 0x10000; ++half) all.push_back(static_cast<uint16_t>(half));
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    std::vector<float> y(all.size());
    set->half->widen(all.data(), static_cast<int64_t>(all.size()), y.data());
    for (size_t i = 0; i < all.size(); ++i) {
      if ((all[i] & 0x7fff) > 0x7c00) {
        ASSERT_TRUE(std::isnan(y[i])) << set->name << ": " << i;
      } else if ((all[i] & 0x7fff) == 0x7c00) {
        ASSERT_TRUE(std::isinf(y[i]) && std::signbit(y[i]) == (all[i] >> 15)) << set->name << ": " << i;
      } else {
        ASSERT_TRUE(same(y[i], static_cast<float>(value_of(all[i])))) << set->name << ": " << i;
      }
    }
  }
}

// No row, and nothing beyond a row's end, is touched.
TEST(Half, KeepsToItsLength) {
  Random random(2);
  for (int64_t n = 0; n <= 40; ++n) {
    const std::vector<float> x(static_cast<size_t>(n), 1.0009765625f * 3);
    const std::vector<uint16_t> halves(static_cast<size_t>(n), 0x3c01);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      std::vector<float> y(static_cast<size_t>(n) + 8, 77.0f);
      set->half->round(x.data(), n, y.data());
      for (size_t i = static_cast<size_t>(n); i < y.size(); ++i) EXPECT_EQ(y[i], 77.0f) << set->name;
      set->half->widen(halves.data(), n, y.data());
      for (size_t i = static_cast<size_t>(n); i < y.size(); ++i) EXPECT_EQ(y[i], 77.0f) << set->name;
    }
  }
}

struct Problem {
  int64_t rows, inputs, strips;
  std::vector<float> x, table;
  std::vector<uint16_t> halves;
  std::vector<uint8_t> indices;
  bool indexed;

  bqc::HalfTiles weight() const {
    return {indexed ? nullptr : halves.data(), indices.data(), table.data(), inputs};
  }

  // Products [rows][16 * strips] of strips [first, last); 77 elsewhere.
  std::vector<float> run(const bqc::HalfProducts& products, int64_t first, int64_t last) const {
    // Memory of exactly the size that was asked for.
    float* panel = bqc::scratch<float>(bqc::Slot::panel, rows * inputs);
    std::vector<float> out(static_cast<size_t>(rows * strips * 16), 77.0f);
    const bqc::HalfTiles tiles = weight();
    products.prepare(x.data(), inputs, rows, panel);
    products.multiply(panel, rows, &tiles, first, last, out.data(), strips * 16);
    return out;
  }

  std::vector<float> run(const bqc::KernelSet& set, int64_t first, int64_t last) const {
    return run(set.half->products, first, last);
  }

  float factor(int64_t strip, int64_t k, int64_t n) const {
    const auto at = static_cast<size_t>((strip * inputs + k) * 16 + n);
    return indexed ? table[indices[at]] : static_cast<float>(value_of(halves[at]));
  }

  std::vector<float> naive() const {
    std::vector<float> out;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t output = 0; output < strips * 16; ++output) {
        volatile float sum = 0;  // every step rounded by itself
        for (int64_t k = 0; k < inputs; ++k) {
          volatile float product =
              rounded(x[static_cast<size_t>(row * inputs + k)]) * factor(output / 16, k, output % 16);
          sum = sum + product;
        }
        out.push_back(static_cast<float>(sum));
      }
    }
    return out;
  }

  void expect_same(const std::vector<float>& a, const std::vector<float>& b, const char* what) const {
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0)
        << what << ": " << rows << " rows of " << inputs << ", " << strips << " strips"
        << (indexed ? " of indices" : "");
  }
};

// Magnitudes from the smallest subnormal to the largest number, or with few an ordinary spread.
Problem problem(Random& random, int64_t rows, int64_t inputs, int64_t strips, bool wild) {
  Problem p = {rows, inputs, strips, {}, {}, {}, {}, between(random, 0, 1) != 0};
  std::normal_distribution<float> normal;
  const auto half = [&] {
    const auto bits =
        static_cast<uint16_t>(wild ? between(random, 0, 0x7bff) : between(random, 0x2800, 0x3bff));
    return static_cast<uint16_t>(bits | between(random, 0, 1) << 15);
  };
  for (int64_t i = 0; i < rows * inputs; ++i) {
    p.x.push_back(wild ? static_cast<float>(value_of(half())) * 1.0003f : normal(random));
  }
  for (int64_t i = 0; i < strips * inputs * 16; ++i) {
    p.halves.push_back(half());
    p.indices.push_back(static_cast<uint8_t>(between(random, 0, 255)));
  }
  for (int i = 0; i < 256; ++i) p.table.push_back(static_cast<float>(value_of(half())));
  return p;
}

TEST(HalfProducts, EqualTheDefinition) {
  static const int64_t kInputs[] = {1, 2, 15, 42, 43, 85, 86, 100, 257, 300};
  Random random(3);
  for (int i = 0; i < 60; ++i) {
    const Problem p = problem(random, between(random, 1, 20), kInputs[between(random, 0, 9)],
                              between(random, 1, 8), i % 3 == 0);
    const std::vector<float> expected = p.naive();
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      p.expect_same(p.run(*set, 0, p.strips), expected, set->name);
    }
  }
}

TEST(HalfProducts, EqualThePortableLevel) {
  static const int64_t kInputs[] = {7, 191, 192, 193, 256, 312, 386, 513, 768};
  Random random(4);
  for (int i = 0; i < 120; ++i) {
    const int64_t strips = between(random, 1, i % 4 ? 13 : 27), first = between(random, 0, strips - 1),
                  last = between(random, first + 1, strips);
    const Problem p = problem(random, between(random, 1, i % 8 ? 14 : bqc::kHalfPanelRows),
                              kInputs[between(random, 0, 8)], strips, i % 2);
    const std::vector<float> expected = p.run(bqc::portable::kKernels, first, last);
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      p.expect_same(p.run(*set, first, last), expected, set->name);
    }
  }
}

// Products of the smallest and the largest numbers, which float32 must hold without rounding; sums that
// cancel.
TEST(HalfProducts, AreExactAtTheExtremes) {
  const uint16_t kExtremes[] = {0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff, 0x3c01, 0xbc01, 0x8000};
  Random random(5);
  Problem p = problem(random, 9, 81, 2, true);
  p.indexed = false;
  for (int64_t k = 0; k < 81; ++k) {
    for (int64_t row = 0; row < 9; ++row) {
      p.x[static_cast<size_t>(row * 81 + k)] = static_cast<float>(value_of(kExtremes[(k / 9 + row) % 9]));
    }
    for (int64_t n = 0; n < 32; ++n) {
      p.halves[static_cast<size_t>((n / 16 * 81 + k) * 16 + n % 16)] = kExtremes[(k + n) % 9];
    }
  }
  for (const uint16_t a : kExtremes) {
    for (const uint16_t b : kExtremes) {
      const double exact = value_of(a) * value_of(b);
      EXPECT_EQ(static_cast<double>(static_cast<float>(exact)), exact);
    }
  }
  const std::vector<float> expected = p.naive();
  for (const bqc::KernelSet* set : bqc::runnable_kernels())
    p.expect_same(p.run(*set, 0, 2), expected, set->name);
}

// Every index finds its number: one input of 1 a row, the others 0, makes it the result.
TEST(HalfProducts, FindEveryIndex) {
  Random random(7);
  for (int64_t inputs = 16; inputs < 24; ++inputs) {
    for (const int64_t rows : {1, 5, 6, 16}) {
      Problem p = problem(random, rows, inputs, 2, true);
      p.indexed = true;
      for (size_t i = 0; i < p.indices.size(); ++i) p.indices[i] = static_cast<uint8_t>(i * 85);
      for (int64_t k = 0; k < inputs; ++k) {
        for (int64_t i = 0; i < rows * inputs; ++i)
          p.x[static_cast<size_t>(i)] = i % inputs == k ? 1.0f : 0.0f;
        const std::vector<float> expected = p.naive();
        for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
          p.expect_same(p.run(*set, 0, 2), expected, set->name);
        }
      }
    }
  }
}

// What a damaged weight holds makes no difference between levels once the result is finite.
void agree_on_infinities_and_nan(bool indexed, int64_t rows) {
  Random random(6);
  Problem p = problem(random, rows, 30, 2, false);
  p.indexed = indexed;
  for (size_t i = 0; i < p.halves.size(); i += 7) {
    p.halves[i] = static_cast<uint16_t>(i % 3 ? 0x7c00 | (i & 1) << 15 : 0x7c01 + i % 1000);
  }
  uint16_t halves[256];
  for (size_t i = 0; i < 256; ++i) {
    halves[i] = i % 40 ? static_cast<uint16_t>(0x3000 + i) : p.halves[i / 40 * 7];
  }
  bqc::portable::kHalf.widen(halves, 256, p.table.data());
  const std::vector<float> bias(32, 0.5f);
  const auto finished = [&](const bqc::KernelSet& set) {
    const std::vector<float> y = p.run(set, 0, 2);
    std::vector<float> out(y.size());
    for (int64_t row = 0; row < p.rows; ++row) {
      set.rows->add_bias(y.data() + row * 32, bias.data(), 32, out.data() + row * 32);
    }
    return out;
  };
  const std::vector<float> expected = finished(bqc::portable::kKernels);
  for (const float y : expected) EXPECT_TRUE(std::isfinite(y));
  for (const bqc::KernelSet* set : bqc::runnable_kernels())
    p.expect_same(finished(*set), expected, set->name);
}

// Sizes around the rows, strips and inputs that are multiplied at once.
template <class Body>
void each_bf16_problem(bool wild, const Body& body) {
  static const int64_t kInputs[] = {1, 2, 3, 31, 32, 33, 255, 256, 257, 511, 512, 513};
  Random random(8);
  for (int i = 0; i < 60; ++i) {
    const int64_t strips = between(random, 1, 5), first = between(random, 0, strips - 1),
                  last = between(random, first + 1, strips);
    body(random,
         problem(random, between(random, 1, i % 6 ? 26 : bqc::kHalfPanelRows), kInputs[i % 12], strips, wild),
         first, last);
  }
}

// Integers of at most 8 bits are numbers of bfloat16, and sums of some thousand products of them are exact.
TEST(HalfProductsInBfloat16, AreExactWhereTheNumbersAre) {
  const bqc::HalfProducts* products = bqc::bf16_products();
  if (!products) GTEST_SKIP() << "the CPU has no AVX512_BF16";
  each_bf16_problem(false, [&](Random& random, Problem p, int64_t first, int64_t last) {
    const auto integer = [&] { return static_cast<float>(between(random, -64, 64)); };
    for (float& x : p.x) x = integer();
    for (float& number : p.table) number = integer();
    for (uint16_t& half : p.halves)
      half = static_cast<uint16_t>(0x3c00 | between(random, 0, 127) << 3);  // 1 to 2
    p.expect_same(p.run(*products, first, last), p.run(bqc::portable::kKernels, first, last), products->by);
  });
}

TEST(HalfProductsInBfloat16, AreCloseElsewhere) {
  const bqc::HalfProducts* products = bqc::bf16_products();
  if (!products) GTEST_SKIP() << "the CPU has no AVX512_BF16";
  each_bf16_problem(false, [&](Random&, Problem p, int64_t first, int64_t last) {
    const std::vector<float> exact = p.run(bqc::portable::kKernels, first, last),
                             close = p.run(*products, first, last);
    Problem magnitudes = p;
    for (float& x : magnitudes.x) x = std::fabs(x);
    for (float& number : magnitudes.table) number = std::fabs(number);
    for (uint16_t& half : magnitudes.halves) half &= 0x7fff;
    const std::vector<float> size = magnitudes.run(bqc::portable::kKernels, first, last);
    for (size_t i = 0; i < exact.size(); ++i) {
      // A factor is off by at most 2**-8 of itself, 2**-11 more where fp16 would have rounded it first.
      ASSERT_LE(std::fabs(close[i] - exact[i]), 0x1.2p-7f * size[i]) << p.rows << " rows of " << p.inputs;
    }
  });
}

// Beyond the numbers of fp16 inputs are cut off, and NaN is 0, as everywhere.
TEST(HalfProductsInBfloat16, CutOffInputs) {
  const bqc::HalfProducts* products = bqc::bf16_products();
  if (!products) GTEST_SKIP() << "the CPU has no AVX512_BF16";
  Random random(9);
  Problem p = problem(random, 3, 33, 1, false);
  p.indexed = false;
  for (uint16_t& half : p.halves) half = 0x3c00;
  for (float& x : p.x) x = 0;
  p.x[32] = std::numeric_limits<float>::infinity();
  p.x[33] = std::numeric_limits<float>::quiet_NaN();
  p.x[66] = -1e30f;
  const std::vector<float> y = p.run(*products, 0, 1);
  EXPECT_EQ(y[0], 65536.0f);  // 65504 in bfloat16
  EXPECT_EQ(y[16], 0.0f);
  EXPECT_EQ(y[32], -65536.0f);
}

TEST(HalfProductsInBfloat16, AreAskedFor) {
  const bqc::KernelSet* best = bqc::runnable_kernels().back();
  EXPECT_EQ(bqc::choose_half(*best).products, &best->half->products);
  EXPECT_EQ(bqc::choose_half(*best).reason, "");
  setenv("BQC_FP16_ARITHMETIC", "bf16", 1);
  const bqc::HalfChoice best_choice = bqc::choose_half(*best),
                        portable = bqc::choose_half(bqc::portable::kKernels);
  unsetenv("BQC_FP16_ARITHMETIC");
  const bqc::HalfProducts* in_bf16 = bqc::bf16_products();
  EXPECT_EQ(best_choice.products, in_bf16 ? in_bf16 : &best->half->products);
  EXPECT_EQ(portable.products, &bqc::portable::kHalf.products);
  EXPECT_NE(portable.reason.find(in_bf16 ? "needs level avx512" : "lacks"), std::string::npos)
      << portable.reason;
}

TEST(HalfProducts, AgreeOnInfinitiesAndNaN) {
  for (const bool indexed : {false, true}) {
    for (const int64_t rows : {1, 8, 20}) agree_on_infinities_and_nan(indexed, rows);
  }
}

}  // namespace
