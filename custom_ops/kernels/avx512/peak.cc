// vpdpbusd, and vfmadd on 512 bits.
#include "kernels/peak.h"

#include <immintrin.h>

namespace bqc::avx512 {
namespace {

constexpr int kSums = 16;

// Hides from the compiler that a register does not change.
#define BQC_FORGET(x) __asm__ volatile("" : "+v"(x))

int64_t int8_steps(int64_t steps) {
  __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5), sums[kSums];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t step = 0; step < steps; ++step) {
    BQC_FORGET(x);
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
  }
  __m512i all = sums[0];
  for (int i = 1; i < kSums; ++i) all = _mm512_xor_si512(all, sums[i]);
  return _mm512_reduce_add_epi64(all);
}

int64_t fp32_steps(int64_t steps) {
  __m512 x = _mm512_set1_ps(0.5f), w = _mm512_set1_ps(0.25f), sums[kSums];
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t step = 0; step < steps; ++step) {
    BQC_FORGET(x);
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_fmadd_ps(x, w, sums[i]);
  }
  __m512 all = sums[0];
  for (int i = 1; i < kSums; ++i) all = _mm512_add_ps(all, sums[i]);
  return _mm512_reduce_add_epi64(_mm512_castps_si512(all));
}

}  // namespace

extern const PeakLoops kPeak = {{"vpdpbusd", kSums * 64, int8_steps},
                                {"vfmadd231ps", kSums * 16, fp32_steps}};

}  // namespace bqc::avx512
