// fp16 weights with VBMI: vpermi2b looks up the low and the high bytes of indices in tables of 128.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512_vbmi {

namespace {

struct Table {
  static constexpr int64_t kStep = 64;

  __m512i low[4], high[4];  // bytes

  void set(const __m512i* numbers) {
    const auto joined = [](__m512i a, __m512i b) {
      return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(a)), _mm512_cvtepi16_epi8(b), 1);
    };
    for (int i = 0; i < 4; ++i) {
      const __m512i left = numbers[2 * i], right = numbers[2 * i + 1];
      low[i] = joined(left, right);
      high[i] = joined(_mm512_srli_epi16(left, 8), _mm512_srli_epi16(right, 8));
    }
  }

  // The numbers [2][32] of 64 indices.
  struct Numbers {
    __m512i first, second;
  };

  Numbers look_up(__m512i indices) const {
    // In this order the bytes of neighbours meet when those of both kinds are interleaved.
    const __m512i x = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), indices);
    const __mmask64 above = _mm512_movepi8_mask(x);
    const auto bytes = [&](const __m512i* from) {
      return _mm512_mask_blend_epi8(above, _mm512_permutex2var_epi8(from[0], x, from[1]),
                                    _mm512_permutex2var_epi8(from[2], x, from[3]));
    };
    const __m512i a = bytes(low), b = bytes(high);
    return {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
  }

  void step(const uint8_t* indices, uint16_t* tile) const {
    const Numbers numbers = look_up(_mm512_loadu_si512(indices));
    _mm512_storeu_si512(tile, numbers.first);
    _mm512_storeu_si512(tile + 32, numbers.second);
  }

  // 16, 32 or 48 indices.
  void last(const uint8_t* indices, int64_t n, uint16_t* tile) const {
    const __mmask64 some = (__mmask64{1} << n) - 1;
    const Numbers numbers = look_up(_mm512_maskz_loadu_epi8(some, indices));
    _mm512_mask_storeu_epi16(tile, static_cast<__mmask32>(some), numbers.first);
    _mm512_mask_storeu_epi16(tile + 32, static_cast<__mmask32>(some >> 32), numbers.second);
  }
};

}  // namespace

#include "kernels/avx512/half.inc"

extern const HalfKernels kHalf = {round, widen, {"vfmadd on fp16 widened", prepare, multiply_any}};

}  // namespace bqc::avx512_vbmi
