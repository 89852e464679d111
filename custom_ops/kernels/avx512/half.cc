// fp16 weights with AVX-512BW: vpermi2w looks up indices in tables of 64 numbers.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

namespace {

struct Table {
  static constexpr int64_t kStep = 32;

  __m512i words[8];

  void set(const __m512i* numbers) { __builtin_memcpy(words, numbers, sizeof words); }

  __m512i look_up(__m256i indices) const {
    const __m512i x = _mm512_cvtepu8_epi16(indices);
    const __mmask32 bit6 = _mm512_test_epi16_mask(x, _mm512_set1_epi16(0x40)),
                    bit7 = _mm512_test_epi16_mask(x, _mm512_set1_epi16(0x80));
    const auto of_128 = [&](const __m512i* from) {
      return _mm512_mask_blend_epi16(bit6, _mm512_permutex2var_epi16(from[0], x, from[1]),
                                     _mm512_permutex2var_epi16(from[2], x, from[3]));
    };
    return _mm512_mask_blend_epi16(bit7, of_128(words), of_128(words + 4));
  }

  void step(const uint8_t* indices, uint16_t* tile) const {
    _mm512_storeu_si512(tile, look_up(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices))));
  }

  // 16 indices.
  void last(const uint8_t* indices, int64_t, uint16_t* tile) const {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(indices));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile),
                        _mm512_castsi512_si256(look_up(_mm256_zextsi128_si256(x))));
  }
};

}  // namespace

#include "kernels/avx512/half.inc"

extern const HalfKernels kHalf = {"vfmadd on fp16 widened", round, widen, prepare, multiply_any};

}  // namespace bqc::avx512
