// vpdpbusd; vfmadd; and counts of bits, by table lookup as for AVX2 or by vpopcntd.
#include "kernels/peak.h"

#include <immintrin.h>

namespace bqc::avx512 {
namespace {

constexpr int kSums = 16, kTables = 4;

// Hides from the compiler that a register does not change.
#define BQC_FORGET(x) __asm__ volatile("" : "+v"(x))

// A result that keeps the loop alive.
inline int64_t lowest(__m512i x) { return _mm_cvtsi128_si64(_mm512_castsi512_si128(x)); }

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
  return lowest(all);
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
  return lowest(_mm512_castps_si512(all));
}

// As for AVX2.
int64_t bits_steps(int64_t steps) {
  const __m512i table = _mm512_set1_epi8(0x21), nibble = _mm512_set1_epi8(15);
  __m512i w = nibble, total[kTables], high[kTables];
  for (int i = 0; i < kTables; ++i) total[i] = high[i] = _mm512_setzero_si512();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 4
    for (int i = 0; i < kTables; ++i) {
      __m512i part = _mm512_setzero_si512();
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        BQC_FORGET(w);
        const __m512i found = _mm512_shuffle_epi8(table, w);
        part = j ? _mm512_add_epi8(part, found) : found;
      }
      total[i] = _mm512_add_epi8(total[i], part);
      high[i] = _mm512_add_epi8(high[i], _mm512_and_si512(_mm512_srli_epi16(part, 4), nibble));
    }
  }
  __m512i all = _mm512_setzero_si512();
  for (int i = 0; i < kTables; ++i) all = _mm512_xor_si512(all, _mm512_xor_si512(total[i], high[i]));
  return lowest(all);
}

constexpr PeakLoop kInt8 = {"vpdpbusd", kSums * 64, int8_steps};
constexpr PeakLoop kFp32 = {"vfmadd231ps", kSums * 16, fp32_steps};

}  // namespace

extern const PeakLoops kPeak = {kInt8, kFp32, {"vpshufb, vpaddb", kTables * 3 * 64 * 4 * 2, bits_steps}};

}  // namespace bqc::avx512

namespace bqc::avx512_vbmi {
namespace {

// In assembly, as this file is compiled without the instruction.
inline __m512i count(__m512i x) {
  __m512i counts;
  __asm__("vpopcntd %1, %0" : "=v"(counts) : "v"(x));
  return counts;
}

int64_t bits_steps(int64_t steps) {
  __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(5), sums[avx512::kSums];
  for (auto& sum : sums) sum = _mm512_setzero_si512();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < avx512::kSums; ++i) {
      BQC_FORGET(x);
      sums[i] = _mm512_add_epi32(sums[i], count(_mm512_xor_si512(x, w)));
    }
  }
  __m512i all = sums[0];
  for (int i = 1; i < avx512::kSums; ++i) all = _mm512_xor_si512(all, sums[i]);
  return avx512::lowest(all);
}

}  // namespace

extern const PeakLoops kPeak = {
    avx512::kInt8, avx512::kFp32, {"vpxord, vpopcntd, vpaddd", avx512::kSums * 512, bits_steps}};

}  // namespace bqc::avx512_vbmi
