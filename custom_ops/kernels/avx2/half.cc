// Weights of fp16 numbers with FMA and F16C, which every CPU with AVX2 that is dispatched to here has.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx2 {

namespace {

// The integers of a mask that keeps the first n of eight floats.
inline __m256i first_of_eight(int64_t n) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), places);
}

inline __m256 rounded(__m256 x) {
  const __m256 largest = _mm256_set1_ps(65504.0f);
  const __m256 number = _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q));
  const __m256 within = _mm256_min_ps(_mm256_max_ps(number, _mm256_set1_ps(-65504.0f)), largest);
  return _mm256_cvtph_ps(_mm256_cvtps_ph(within, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

void round(const float* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, rounded(_mm256_loadu_ps(x + i)));
  if (i == n) return;
  const __m256i mask = first_of_eight(n - i);
  _mm256_maskstore_ps(y + i, mask, rounded(_mm256_maskload_ps(x + i, mask)));
}

inline void round_four(const float* const* rows, int64_t n, int64_t step, float* y) {
  for (int64_t k = 0; k < n; k += 8) {
    const int64_t some = n - k < 8 ? n - k : 8;
    const __m256i mask = first_of_eight(some);
    __m256 x[4];
    for (int i = 0; i < 4; ++i) x[i] = rounded(_mm256_maskload_ps(rows[i] + k, mask));
    const __m256d even[2] = {_mm256_castps_pd(_mm256_unpacklo_ps(x[0], x[1])),
                             _mm256_castps_pd(_mm256_unpacklo_ps(x[2], x[3]))};
    const __m256d odd[2] = {_mm256_castps_pd(_mm256_unpackhi_ps(x[0], x[1])),
                            _mm256_castps_pd(_mm256_unpackhi_ps(x[2], x[3]))};
    // Of each, the four numbers of input i and of input i + 4.
    const __m256 fours[4] = {_mm256_castpd_ps(_mm256_unpacklo_pd(even[0], even[1])),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(even[0], even[1])),
                             _mm256_castpd_ps(_mm256_unpacklo_pd(odd[0], odd[1])),
                             _mm256_castpd_ps(_mm256_unpackhi_pd(odd[0], odd[1]))};
    float* to = y + k * step;
    if (some == 8) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) _mm_storeu_ps(to + i * step, _mm256_castps256_ps128(fours[i]));
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) _mm_storeu_ps(to + (i + 4) * step, _mm256_extractf128_ps(fours[i], 1));
    } else {
      for (int64_t i = 0; i < some; ++i) {
        const __m256 four = fours[i % 4];
        _mm_storeu_ps(to + i * step, i < 4 ? _mm256_castps256_ps128(four) : _mm256_extractf128_ps(four, 1));
      }
    }
  }
}

void widen(const uint16_t* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + i));
    _mm256_storeu_ps(y + i, _mm256_cvtph_ps(halves));
  }
  for (; i < n; ++i) y[i] = _cvtsh_ss(x[i]);
}

}  // namespace

#include "kernels/half_as_float.inc"

namespace {

// One by one, as integers, of which two are stored at a time: gathers, and vectors put together, take longer.
inline void look_up(const Table& table, const uint8_t* indices, int64_t n, float* y) {
  for (int64_t i = 0; i < n; i += 16) {
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      uint32_t bits;
      __builtin_memcpy(&bits, table + indices[i + j], 4);
      __asm__("" : "+r"(bits));  // keeps the compiler from making vectors of them
      __builtin_memcpy(y + i + j, &bits, 4);
    }
  }
}

template <int R, int S>
inline void multiply_tile(const float* x, int64_t inputs, const float* const* tiles, bool more, float* sums,
                          int64_t stride, const char*, int64_t, int64_t) {
  constexpr int kVectors = 2 * S;
  __m256 acc[R][kVectors];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = more ? _mm256_loadu_ps(sums + v / 2 * stride + r * 16 + v % 2 * 8) : _mm256_setzero_ps();
    }
  }
  for (int64_t k = 0; k < inputs; ++k) {
    if constexpr (S == 1) {
      const float* strip = tiles[0] + k * 16;
      const __m256 left = _mm256_load_ps(strip), right = _mm256_load_ps(strip + 8);
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256 factor = _mm256_broadcast_ss(x + k * R + r);
        acc[r][0] = _mm256_fmadd_ps(factor, left, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(factor, right, acc[r][1]);
      }
    } else {
      __m256 factors[R];
#pragma GCC unroll 3
      for (int r = 0; r < R; ++r) factors[r] = _mm256_broadcast_ss(x + k * R + r);
#pragma GCC unroll 12
      for (int v = 0; v < kVectors; ++v) {
        const __m256 w = _mm256_load_ps(tiles[v / 2] + k * 16 + v % 2 * 8);
#pragma GCC unroll 3
        for (int r = 0; r < R; ++r) acc[r][v] = _mm256_fmadd_ps(factors[r], w, acc[r][v]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 12
    for (int v = 0; v < kVectors; ++v)
      _mm256_storeu_ps(sums + v / 2 * stride + r * 16 + v % 2 * 8, acc[r][v]);
  }
}

}  // namespace

#include "kernels/half.inc"

extern const HalfKernels kHalf = {round, widen, {"vfmadd on fp16 widened", prepare, multiply}};

}  // namespace bqc::avx2
