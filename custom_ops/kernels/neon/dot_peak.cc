// sdot; fmla; and cnt.
#include <arm_neon.h>

#include "kernels/peak.h"

namespace bqc::neon_dot {

#include "kernels/neon/peak.inc"

namespace {

int64_t int8_steps(int64_t steps) {
  int8x16_t x = vdupq_n_s8(3), w = vdupq_n_s8(5);
  int32x4_t sums[kSums] = {};
  for (int64_t step = 0; step < steps; ++step) {
    BQC_FORGET(x);
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = vdotq_s32(sums[i], x, w);
  }
  int32_t sum = 0;
  for (const int32x4_t& one : sums) sum ^= vaddvq_s32(one);
  return sum;
}

}  // namespace

extern const PeakLoops kPeak = {{"sdot", kSums * 16, int8_steps}, kFp32, kBits};

}  // namespace bqc::neon_dot
