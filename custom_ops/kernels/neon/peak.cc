// smull and sadalp, the fastest exact product of any aarch64; fmla; and cnt.
#include "kernels/peak.h"

#include <arm_neon.h>

namespace bqc::neon {

#include "kernels/neon/peak.inc"

namespace {

int64_t int8_steps(int64_t steps) {
  int8x16_t x = vdupq_n_s8(3), w = vdupq_n_s8(5);
  int32x4_t sums[kSums] = {};
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums; i += 2) {
      BQC_FORGET(x);
      sums[i] = vpadalq_s16(sums[i], vmull_s8(vget_low_s8(x), vget_low_s8(w)));
      sums[i + 1] = vpadalq_s16(sums[i + 1], vmull_high_s8(x, w));
    }
  }
  int32_t sum = 0;
  for (const int32x4_t& one : sums) sum ^= vaddvq_s32(one);
  return sum;
}

}  // namespace

extern const PeakLoops kPeak = {{"smull, sadalp", kSums * 8, int8_steps}, kFp32, kBits};

}  // namespace bqc::neon
