// Weights of fp16 numbers at the level that runs anywhere: plain loops.
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::portable {

namespace {

inline uint32_t bits_of(float x) {
  uint32_t b;
  __builtin_memcpy(&b, &x, sizeof b);
  return b;
}

inline float float_of(uint32_t b) {
  float x;
  __builtin_memcpy(&x, &b, sizeof x);
  return x;
}

void round(const float* __restrict x, int64_t n, float* __restrict y) {
  constexpr uint32_t kMagnitude = 0x7fffffff, kInfinity = 0x7f800000, kLargest = 0x477fe000,
                     kSmallestNormal = 0x38800000;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t b = bits_of(x[i]), a = b & kMagnitude, clipped = a < kLargest ? a : kLargest;
    // 13 bits less, half to even; below 2**-14 whole multiples of 2**-24, the spacing of floats from 0.5 on.
    const uint32_t normal = (clipped + 0xfff + (clipped >> 13 & 1)) & ~0x1fffu;
    const uint32_t tiny = bits_of((float_of(clipped) + 0.5f) - 0.5f);
    const uint32_t rounded = (clipped < kSmallestNormal ? tiny : normal) | (b ^ a);
    y[i] = float_of(a > kInfinity ? 0 : rounded);
  }
}

inline void round_four(const float* const* rows, int64_t n, int64_t step, float* y) {
  constexpr int64_t kMost = 64;
  float rounded[4][kMost];
  for (int64_t at = 0; at < n; at += kMost) {
    const int64_t some = n - at < kMost ? n - at : kMost;
    for (int i = 0; i < 4; ++i) round(rows[i] + at, some, rounded[i]);
    for (int64_t k = 0; k < some; ++k) {
      for (int i = 0; i < 4; ++i) y[(at + k) * step + i] = rounded[i][k];
    }
  }
}

void widen(const uint16_t* __restrict x, int64_t n, float* __restrict y) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t m = x[i] & 0x7fffu, sign = static_cast<uint32_t>(x[i] & 0x8000) << 16;
    // Infinities and NaN stay such, NaN as a quiet one.
    const uint32_t bias = m < 0x7c00 ? 112u << 23 : 224u << 23, quiet = m > 0x7c00 ? 0x400000u : 0;
    // Not as a subnormal float times a power of two, which a mode of the CPU may take for zero.
    const uint32_t tiny = bits_of(static_cast<float>(static_cast<int32_t>(m)) * 0x1p-24f);
    y[i] = float_of((m < 0x400 ? tiny : ((m << 13) + bias) | quiet) | sign);
  }
}

}  // namespace

#include "kernels/half_as_float.inc"

namespace {

inline void look_up(const Table& table, const uint8_t* indices, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = table[indices[i]];
}

typedef float Four __attribute__((vector_size(16)));

// R of `of` rows of x times one strip, four outputs at a time, whose sums stay in registers.
template <int R>
inline void multiply_rows(const float* x, int of, int64_t inputs, const float* tile, bool more, float* sums) {
  Four acc[R][4] = {};
  if (more) __builtin_memcpy(acc, sums, sizeof acc);
  for (int64_t k = 0; k < inputs; ++k) {
    Four w[4];
    __builtin_memcpy(w, tile + k * 16, sizeof w);
#pragma GCC unroll 2
    for (int r = 0; r < R; ++r) {
      const float factor = x[k * of + r];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[r][v] += w[v] * factor;
    }
  }
  __builtin_memcpy(sums, acc, sizeof acc);
}

template <int R, int S>
inline void multiply_tile(const float* x, int64_t inputs, const float* const* tiles, bool more, float* sums,
                          int64_t stride, const char*, int64_t, int64_t) {
  for (int s = 0; s < S; ++s) {
    const float* tile = tiles[s];
    float* to = sums + s * stride;
    int r = 0;
    for (; r + 2 <= R; r += 2) multiply_rows<2>(x + r, R, inputs, tile, more, to + r * 16);
    if (r < R) multiply_rows<1>(x + r, R, inputs, tile, more, to + r * 16);
  }
}

}  // namespace

#include "kernels/half.inc"

extern const HalfKernels kHalf = {round, widen, {"plain loops", prepare, multiply}};

}  // namespace bqc::portable
