// Signs by signs without VPOPCNTDQ and VBMI.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

#include "kernels/avx512/outputs.inc"
#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

namespace {

using Bytes = __m512i;

inline Bytes zeros() { return _mm512_setzero_si512(); }
inline Bytes load(const uint8_t* bytes) { return _mm512_loadu_si512(bytes); }
inline Bytes add(Bytes a, Bytes b) { return _mm512_add_epi8(a, b); }
inline Bytes sub(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
inline Bytes low_half(Bytes x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Bytes high_half(Bytes x) { return low_half(_mm512_srli_epi16(x, 4)); }
inline Bytes raised(Bytes x) { return _mm512_and_si512(_mm512_slli_epi16(x, 4), _mm512_set1_epi8(-16)); }
inline Bytes look_up(Bytes table, Bytes index) { return _mm512_shuffle_epi8(table, index); }

class Counts {
 public:
  void add(Bytes bytes) { add_outputs(sums_, bytes, _mm512_set1_epi8(1)); }
  void add_stored(const float* y) { sums_ = _mm512_add_epi32(sums_, _mm512_loadu_si512(y)); }
  void store(float* y) const { _mm512_storeu_si512(y, sums_); }
  void scale(int64_t columns, const float* scales, float* y) const {
    const __m512i all = _mm512_set1_epi32(static_cast<int32_t>(columns));
    const __m512 dot = _mm512_cvtepi32_ps(_mm512_sub_epi32(all, _mm512_add_epi32(sums_, sums_)));
    const __m512 scaled = _mm512_mul_ps(dot, _mm512_loadu_ps(scales));
    _mm512_storeu_ps(y, _mm512_add_ps(_mm512_setzero_ps(), scaled));
  }

 private:
  __m512i sums_ = _mm512_setzero_si512();
};

}  // namespace

#include "kernels/avx512/bits.inc"
#include "kernels/xnor_tables.inc"

extern const XnorKernels kXnor = {
    "512-bit vpshufb into tables of counts", panel_bytes, prepare, multiply, binarize_floats, binarize_bytes};

}  // namespace bqc::avx512
