// Attention of float32 numbers with AVX2.
#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::avx2 {

namespace {

constexpr int kLanes = 8, kVectors = 2, kRows = 6, kFewRows = 8, kChains = 4;

}  // namespace

#include "kernels/float_attention.inc"

extern const FloatAttentionKernels kFloatAttention = {"vmulps and vaddps", sanitize, memory, attend};

}  // namespace bqc::avx2
