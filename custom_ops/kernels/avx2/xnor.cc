// Signs by signs with AVX2.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx2 {

#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

namespace {

using Bytes = __m256i;

inline Bytes zeros() { return _mm256_setzero_si256(); }
inline Bytes load(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const Bytes*>(bytes)); }
inline Bytes add(Bytes a, Bytes b) { return _mm256_add_epi8(a, b); }
inline Bytes sub(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
inline Bytes low_half(Bytes x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline Bytes high_half(Bytes x) { return low_half(_mm256_srli_epi16(x, 4)); }
inline Bytes raised(Bytes x) { return _mm256_and_si256(_mm256_slli_epi16(x, 4), _mm256_set1_epi8(-16)); }
inline Bytes look_up(Bytes table, Bytes index) { return _mm256_shuffle_epi8(table, index); }

// In two halves, which are those of different inputs: `odd` has outputs 1, 3, ..., `whole` 256 times them
// plus outputs 0, 2, ..., modulo 2**16; of earlier windows, outputs 0 to 7 and 8 to 15.
class Counts {
 public:
  void add(Bytes bytes) {
    whole_ = _mm256_add_epi16(whole_, bytes);
    odd_ = _mm256_add_epi16(odd_, _mm256_srli_epi16(bytes, 8));
  }
  void add_stored(const float* y) {
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) before_[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(y + 8 * i));
  }
  void store(float* y) const {
    __m256i sums[2];
    add_up(sums);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(y + 8 * i), sums[i]);
  }
  void scale(int64_t columns, const float* scales, float* y) const {
    const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(columns));
    __m256i sums[2];
    add_up(sums);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256 dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(all, _mm256_add_epi32(sums[i], sums[i])));
      const __m256 scaled = _mm256_mul_ps(dot, _mm256_loadu_ps(scales + 8 * i));
      _mm256_storeu_ps(y + 8 * i, _mm256_add_ps(_mm256_setzero_ps(), scaled));
    }
  }

 private:
  void add_up(__m256i (&sums)[2]) const {
    const __m256i even = _mm256_sub_epi16(whole_, _mm256_slli_epi16(odd_, 8));
    const __m256i a = _mm256_unpacklo_epi16(even, odd_), b = _mm256_unpackhi_epi16(even, odd_);
    const __m256i both =
        _mm256_add_epi16(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    sums[0] = _mm256_add_epi32(before_[0], _mm256_cvtepu16_epi32(_mm256_castsi256_si128(both)));
    sums[1] = _mm256_add_epi32(before_[1], _mm256_cvtepu16_epi32(_mm256_extracti128_si256(both, 1)));
  }

  __m256i whole_ = _mm256_setzero_si256(), odd_ = whole_, before_[2] = {whole_, whole_};
};

}  // namespace

#include "kernels/xnor_tables.inc"

namespace {

void binarize_floats(const float* x, int64_t n, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_GT_OQ);
    bits[i / 8] = static_cast<uint8_t>(_mm256_movemask_ps(above));
  }
  if (i < n) binarize(x + i, n - i, bits + i / 8);
}

void binarize_bytes(const int8_t* codes, int64_t n, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    const int mask = _mm256_movemask_epi8(_mm256_cmpgt_epi8(x, _mm256_setzero_si256()));
    __builtin_memcpy(bits + i / 8, &mask, sizeof mask);
  }
  if (i < n) binarize_codes(codes + i, n - i, bits + i / 8);
}

}  // namespace

extern const XnorKernels kXnor = {
    "vpshufb into tables of counts", panel_bytes, prepare, multiply, binarize_floats, binarize_bytes};

}  // namespace bqc::avx2
