// N:M-sparse weights without VBMI: vpshufb picks among 16 inputs.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

namespace {

struct Table {
  static constexpr int kInputs = 16;
  __m512i inputs;

  // Of n activations, 0 behind them.
  static void prepare(const int8_t* x, int64_t n, uint8_t* to) {
    const __mmask16 there = static_cast<__mmask16>(n < 16 ? (1 << n) - 1 : -1);
    const __m128i inputs = _mm_xor_si128(_mm_maskz_loadu_epi8(there, x), _mm_set1_epi8(-128));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), inputs);
  }
  static Table load(const uint8_t* x) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))};
  }
  __m512i pick(__m512i index) const { return _mm512_shuffle_epi8(inputs, index); }
};

}  // namespace

#include "kernels/avx512/sparse.inc"

extern const SparseKernels kSparse = {"vpshufb by index and vpdpbusd", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512
