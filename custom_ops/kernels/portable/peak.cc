// The most that plain loops reach: whatever the compiler makes of them with the flags of the portable level.
#include "kernels/peak.h"

namespace bqc::portable {
namespace {

constexpr int kWidth = 512, kWords = 30;

// Keeps the compiler from computing a step once for all steps.
template <class T>
inline void forget(T* data) {
  __asm__ volatile("" : : "r"(data) : "memory");
}

int64_t int8_steps(int64_t steps) {
  int16_t x[kWidth], w[kWidth];
  for (int i = 0; i < kWidth; ++i) {
    x[i] = static_cast<int16_t>(i % 255 - 127);
    w[i] = static_cast<int16_t>(i % 251 - 125);
  }
  uint32_t sum = 0;
  for (int64_t step = 0; step < steps; ++step) {
    forget(x);
    int32_t part = 0;
    for (int i = 0; i < kWidth; ++i) part += x[i] * w[i];
    sum += static_cast<uint32_t>(part);
  }
  return sum;
}

int64_t fp32_steps(int64_t steps) {
  typedef float Four __attribute__((vector_size(16)));
  Four x = {0.5f, 0.5f, 0.5f, 0.5f}, w = x + x, a = {}, b = a, c = a, d = a, e = a, f = a;
  for (int64_t step = 0; step < steps; ++step) {
    forget(&x);
    const Four y = x;
    forget(&w);
    a += y * w;
    b += y * (w + y);
    c += y * (w - y);
    d += w * (w + y);
    e += w * (w - y);
    f += (w - y) * (w + y);
  }
  a += b + c + d + e + f;
  return static_cast<int64_t>(a[0]);
}

// Of every byte the bits that differ, in as many words as a byte can sum.
int64_t bits_steps(int64_t steps) {
  uint64_t x[kWords], w[kWords];
  for (int i = 0; i < kWords; ++i) {
    x[i] = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u;
    w[i] = ~x[i] >> 7;
  }
  uint64_t sum = 0;
  for (int64_t step = 0; step < steps; ++step) {
    forget(x);
    uint64_t part = 0;
    for (int i = 0; i < kWords; ++i) {
      uint64_t v = x[i] ^ w[i];
      v -= v >> 1 & 0x5555555555555555u;
      v = (v & 0x3333333333333333u) + (v >> 2 & 0x3333333333333333u);
      part += (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    }
    sum ^= part;
  }
  return static_cast<int64_t>(sum);
}

}  // namespace

extern const PeakLoops kPeak = {{"plain loops", kWidth, int8_steps},
                                {"four floats at a time", 32, fp32_steps},
                                {"counts of bits in words", kWords * 64, bits_steps}};

}  // namespace bqc::portable
