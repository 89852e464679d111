// vpmaddwd on bytes widened to 16 bits, the fastest exact product of AVX2; vfmadd; and vpshufb into tables of
// counts.
#include "kernels/peak.h"

#include <immintrin.h>

namespace bqc::avx2 {
namespace {

// sum += x * w. In assembly: the compiler would compute a product of constants once, or add moves between
// registers.
inline void add_product(__m256i& sum, __m256i x, __m256i w) {
  __m256i product;
  __asm__ volatile("vpmaddwd %2, %3, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(x), "x"(w));
}

int64_t int8_steps(int64_t steps) {
  const __m256i x = _mm256_set1_epi16(3), w = _mm256_set1_epi16(5);
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (int64_t step = 0; step < steps; ++step) {
    add_product(a, x, w);
    add_product(b, x, w);
    add_product(c, x, w);
    add_product(d, x, w);
  }
  return _mm256_extract_epi64(_mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)), 0);
}

int64_t fp32_steps(int64_t steps) {
  constexpr int kSums = 12;
  __m256 x = _mm256_set1_ps(0.5f), w = _mm256_set1_ps(0.25f), sums[kSums];
  for (auto& sum : sums) sum = _mm256_setzero_ps();
  for (int64_t step = 0; step < steps; ++step) {
    __asm__ volatile("" : "+x"(x));  // so that no product is computed once for all steps
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = _mm256_fmadd_ps(x, w, sums[i]);
  }
  __m256 all = sums[0];
  for (int i = 1; i < kSums; ++i) all = _mm256_add_ps(all, sums[i]);
  return _mm256_extract_epi64(_mm256_castps_si256(all), 0);
}

// As the kernel counts: a lookup is of four inputs of two rows, and what three find is added both as a whole
// and by its high halves alone.
int64_t bits_steps(int64_t steps) {
  constexpr int kSums = 3;
  const __m256i table = _mm256_set1_epi8(0x21), nibble = _mm256_set1_epi8(15);
  __m256i w = nibble, total[kSums], high[kSums];
  for (int i = 0; i < kSums; ++i) total[i] = high[i] = _mm256_setzero_si256();
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 3
    for (int i = 0; i < kSums; ++i) {
      __m256i part = _mm256_setzero_si256();
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) {
        __asm__ volatile("" : "+x"(w));  // so that no lookup is made once for all steps
        const __m256i found = _mm256_shuffle_epi8(table, w);
        part = j ? _mm256_add_epi8(part, found) : found;
      }
      total[i] = _mm256_add_epi8(total[i], part);
      high[i] = _mm256_add_epi8(high[i], _mm256_and_si256(_mm256_srli_epi16(part, 4), nibble));
    }
  }
  __m256i all = _mm256_setzero_si256();
  for (int i = 0; i < kSums; ++i) all = _mm256_xor_si256(all, _mm256_xor_si256(total[i], high[i]));
  return _mm256_extract_epi64(all, 0);
}

}  // namespace

extern const PeakLoops kPeak = {{"vpmaddwd, vpaddd", 4 * 16, int8_steps},
                                {"vfmadd231ps", 12 * 8, fp32_steps},
                                {"vpshufb, vpaddb", 3 * 3 * 32 * 4 * 2, bits_steps}};

}  // namespace bqc::avx2
