// N:M-sparse weights with VBMI: vpermb picks among 64 inputs, which takes no broadcast.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::avx512_vbmi {

namespace {

struct Table {
  static constexpr int kInputs = 64;
  __m512i inputs;

  static Table load(const uint8_t* x) { return {_mm512_loadu_si512(x)}; }
  __m512i pick(__m512i index) const { return _mm512_permutexvar_epi8(index, inputs); }
};

}  // namespace

#include "kernels/avx512/sparse.inc"

extern const SparseKernels kSparse = {"vpermb by index and vpdpbusd", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512_vbmi
