// N:M-sparse weights without VBMI: vpshufb picks among 16 inputs.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

namespace {

struct Table {
  static constexpr int kInputs = 16;
  __m512i inputs;

  static Table load(const uint8_t* x) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))};
  }
  __m512i pick(__m512i index) const { return _mm512_shuffle_epi8(inputs, index); }
};

}  // namespace

#include "kernels/avx512/sparse.inc"

extern const SparseKernels kSparse = {"vpshufb by index and vpdpbusd", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512
