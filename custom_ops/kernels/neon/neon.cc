// Any aarch64: smull makes 16-bit products of bytes, sadalp adds neighbours up to 32 bits. Exact, as no sum
// of two products is ever held in 16 bits.
#include <arm_neon.h>

#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::neon {

#include "kernels/pack.inc"
#include "kernels/rows.inc"
#include "kernels/simple_panel.inc"

namespace {

constexpr int kMaxRows = 2;  // eight accumulators each

struct Sums {
  // Even and odd pairs of inputs of outputs 0 and 1, and of 2 and 3.
  int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);

  template <int Lane>
  void add(int8x16_t w, int8x16_t x) {
    const int8x16_t four = vreinterpretq_s8_s32(vdupq_laneq_s32(vreinterpretq_s32_s8(x), Lane));
    low = vpadalq_s16(low, vmull_s8(vget_low_s8(w), vget_low_s8(four)));
    high = vpadalq_s16(high, vmull_high_s8(w, four));
  }
  int32x4_t total() const { return vpaddq_s32(low, high); }
};

}  // namespace

#include "kernels/neon/gemm.inc"

extern const KernelSet kKernels = {"neon",           "smull and sadalp", &kRows,
                                   &kGemm,           &portable::kSigns,  &kXnor,
                                   &portable::kHalf, &portable::kSparse, &portable::kFloatAttention};

}  // namespace bqc::neon
