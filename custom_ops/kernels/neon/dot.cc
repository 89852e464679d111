// aarch64 with the dot-product instructions: sdot adds four products of bytes to each of four 32-bit sums.
#include <arm_neon.h>

#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::neon_dot {

#include "kernels/pack.inc"
#include "kernels/rows.inc"
#include "kernels/simple_panel.inc"

namespace {

constexpr int kMaxRows = 4;  // four accumulators each

struct Sums {
  int32x4_t sums = vdupq_n_s32(0);

  template <int Lane>
  void add(int8x16_t w, int8x16_t x) {
    sums = vdotq_laneq_s32(sums, w, x, Lane);
  }
  int32x4_t total() const { return sums; }
};

}  // namespace

#include "kernels/neon/gemm.inc"

extern const KernelSet kKernels = {"neon_dot",
                                   "sdot",
                                   &kRows,
                                   &kGemm,
                                   &portable::kSigns,
                                   &neon::kXnor,
                                   &portable::kHalf,
                                   &portable::kSparse,
                                   &portable::kFloatAttention};

}  // namespace bqc::neon_dot
