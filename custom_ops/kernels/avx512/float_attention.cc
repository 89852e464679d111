// Attention of float32 numbers with AVX-512F.
#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::avx512 {

namespace {

constexpr int kLanes = 16, kVectors = 2, kRows = 8, kFewRows = 12, kChains = 4;

}  // namespace

#include "kernels/float_attention.inc"

extern const FloatAttentionKernels kFloatAttention = {"vmulps and vaddps", sanitize, memory, attend};

}  // namespace bqc::avx512
