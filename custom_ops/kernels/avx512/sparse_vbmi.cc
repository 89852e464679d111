// N:M-sparse weights with VBMI: vpermb picks among 64 inputs, which takes no broadcast.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::avx512_vbmi {

namespace {

struct Table {
  static constexpr int kInputs = 64;
  __m512i inputs;

  // Of n activations, 0 behind them.
  static void prepare(const int8_t* x, int64_t n, uint8_t* to) {
    const __mmask64 there = n < 64 ? (__mmask64{1} << n) - 1 : ~__mmask64{0};
    _mm512_storeu_si512(to, _mm512_xor_si512(_mm512_maskz_loadu_epi8(there, x), _mm512_set1_epi8(-128)));
  }
  static Table load(const uint8_t* x) { return {_mm512_loadu_si512(x)}; }
  __m512i pick(__m512i index) const { return _mm512_permutexvar_epi8(index, inputs); }
};

}  // namespace

#include "kernels/avx512/sparse.inc"

extern const SparseKernels kSparse = {"vpermb by index and vpdpbusd", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512_vbmi
