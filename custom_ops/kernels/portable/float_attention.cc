// Attention of float32 numbers at the level that runs anywhere: vectors of four.
#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::portable {

namespace {

constexpr int kLanes = 4, kVectors = 2, kRows = 4, kFewRows = 8, kChains = 4;

}  // namespace

#include "kernels/float_attention.inc"

extern const FloatAttentionKernels kFloatAttention = {"plain loops", sanitize, memory, attend};

}  // namespace bqc::portable
