// fp16 weights with AVX-512BW.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

#include "kernels/avx512/fp16_table.inc"
#include "kernels/avx512/half.inc"

extern const HalfKernels kHalf = {round, widen, {"vfmadd on fp16 widened", prepare, multiply_any}};

}  // namespace bqc::avx512
