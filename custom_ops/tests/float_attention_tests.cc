// Attention of float32 numbers: every ISA level against loops over the definition.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/constants.h"
#include "kernels/dispatch.h"
#include "ops/common.h"
#include "random.h"
#include "rounds.h"

namespace {

using Limits = std::numeric_limits<float>;

float sanitized(float x) {
  if (std::isnan(x) || std::fabs(x) < Limits::min()) return 0.0f;
  return std::clamp(x, -Limits::max(), Limits::max());
}

float weight_of(float score, float top) {
  const float t = std::min(std::max((score - top) * bqc::kLog2E, bqc::kFloatSoftmaxLow), 0.0f);
  const float whole = std::floor(t);
  float grown = bqc::kExp2[6];
  for (int k = 5; k >= 0; --k) grown = grown * (t - whole) + bqc::kExp2[k];
  return grown * std::ldexp(1.0f, static_cast<int>(whole));
}

// A head with its numbers, and queries with a stride.
struct Problem {
  int64_t width, keys, rows, stride;
  float scale;
  int alike;
  std::vector<float> key, values, q;

  std::vector<float> run(const bqc::KernelSet& set) const {
    const bqc::FloatAttentionKernels& kernels = *set.float_attention;
    std::vector<float> packed[] = {key, values};
    for (std::vector<float>& part : packed) kernels.sanitize(part.data(), keys * width, part.data());
    const bqc::FloatHead head = {packed[0].data(), packed[1].data(), width, keys, scale, alike, alike * 5};
    std::vector<float> y(q.size(), 77.0f);
    float* memory = bqc::scratch<float>(bqc::Slot::tile, kernels.memory(&head));
    kernels.attend(&head, q.data(), stride, rows, memory, y.data());
    return y;
  }

  std::vector<float> defined() const {
    std::vector<float> y(q.size(), 77.0f);
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<float> weights;
      for (int64_t j = 0; j < keys; ++j) {
        float sum = 0;
        for (int64_t c = 0; c < width; ++c) {
          sum += sanitized(q[at(r * stride + c)]) * sanitized(key[at(j * width + c)]);
        }
        weights.push_back(alike ? 0.0f : sanitized(sum * scale));
      }
      const float top = *std::max_element(weights.begin(), weights.end());
      float total = 0;
      for (float& weight : weights) total += weight = weight_of(weight, top);
      if (alike) total += 5.0f;
      for (int64_t c = 0; c < width; ++c) {
        float sum = 0;
        for (int64_t j = 0; j < keys; ++j) sum += weights[at(j)] * sanitized(values[at(j * width + c)]);
        y[at(r * stride + c)] = sanitized(sum / total);
      }
    }
    return y;
  }

  static size_t at(int64_t i) { return static_cast<size_t>(i); }
};

// Ordinary numbers, or some of them odd, or of all sizes.
std::vector<float> floats(Random& random, int64_t n, int64_t kind) {
  static const float kOdd[] = {Limits::infinity(), -Limits::infinity(), Limits::quiet_NaN(), 1e-45f, -0.0f,
                               Limits::max(),      -Limits::max(),      Limits::min(),       0.0f};
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) {
    x = normal(random);
    if (kind == 1 && between(random, 0, 19) == 0) x = kOdd[between(random, 0, std::size(kOdd) - 1)];
    if (kind == 2) x = std::ldexp(x, static_cast<int>(between(random, -140, 127)));
  }
  return out;
}

Problem problem(Random& random, int64_t width, int64_t keys, int64_t rows) {
  const int64_t stride = width + between(random, 0, 9), kind = between(random, 0, 2);
  Problem p = {width, keys, rows, stride, between(random, 0, 1) ? 0.125f : 30.0f, between(random, 0, 5) == 0,
               {},    {},   {}};
  p.key = floats(random, keys * width, kind);
  p.values = floats(random, keys * width, kind);
  p.q = floats(random, rows * stride, kind);
  return p;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void expect_definition(const Problem& p) {
  const std::vector<float> wanted = p.defined();
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    EXPECT_TRUE(same(p.run(*set), wanted))
        << set->name << ", " << p.rows << " queries, " << p.keys << " keys of " << p.width;
  }
}

TEST(FloatAttention, EqualsTheDefinition) {
  Random random(1);
  for (const int64_t width : {26, 32, 64}) {
    for (const int64_t tokens : {1, 17, 512}) expect_definition(problem(random, width, tokens, tokens));
  }
  for (int i = 0; i < rounds(300); ++i) {
    const int64_t width = between(random, 1, 80), keys = between(random, 1, 60);
    expect_definition(problem(random, width, keys, between(random, 1, 60)));
  }
}

// So that keys that a mask hides need not be there.
TEST(FloatAttention, SumsKeysInOrder) {
  Problem p = {1, 3, 1, 1, 1.0f, 0, {0, 0, 0}, {1e8f, 1.0f, -1e8f}, {0}};
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    p.values = {1e8f, 1.0f, -1e8f};
    EXPECT_EQ(p.run(*set)[0], 0.0f) << set->name;
    p.values = {1e8f, -1e8f, 1.0f};
    EXPECT_EQ(p.run(*set)[0], 1.0f / 3.0f) << set->name;
  }
}

// A key that is far below the largest one weighs 2**-64 and not less, however far.
TEST(FloatAttention, HasALeastWeight) {
  Problem p = {1, 2, 1, 1, 1.0f, 0, {100.0f, 0.0f}, {0.0f, 0x1p70f}, {1.0f}};
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    EXPECT_EQ(p.run(*set)[0], 0x1p6f) << set->name;
    p.q = {Limits::max()};
    EXPECT_EQ(p.run(*set)[0], 0x1p6f) << set->name;
    p.q = {1.0f};
  }
}

// Sums beyond float32: infinities of one sign are the largest number, of both none, which is 0.
TEST(FloatAttention, AgreesWhereSumsOverflow) {
  const float most = Limits::max();
  const Problem mixed = {1, 2, 1, 1, 1.0f, 0, {0, 0}, {most, most}, {0}};
  const Problem scores = {2, 2, 1, 2, 1.0f, 0, {most, -most, 1, 1}, {0, 0, 5, 5}, {most, most}};
  for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
    EXPECT_EQ(mixed.run(*set)[0], most) << set->name;
    EXPECT_EQ(scores.run(*set)[0], 5.0f) << set->name;  // of scores 0 and the largest one
  }
}

}  // namespace
