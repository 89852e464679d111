// What the CPU can do at most, measured: loops of independent sums of products on registers, and nothing
// else.
#pragma once

#include <stdint.h>

namespace bqc {

// Plain data only, as in kernels.h: every level compiles this with its own flags.
struct PeakLoop {
  const char* what;               // the instructions
  int64_t macs;                   // multiply-accumulates of a step
  int64_t (*run)(int64_t steps);  // the result only keeps the loop alive
};

// Products of int8 codes that cannot saturate, of floats, and of signs, whose bits that differ are counted.
// Kernels may not fuse a multiply and an add, but the CPU's limit counts as one where it has the instruction.
struct PeakLoops {
  PeakLoop int8, fp32, bits;
};

namespace portable {
extern const PeakLoops kPeak;
}
#if defined(BQC_X86)
namespace avx2 {
extern const PeakLoops kPeak;
}
namespace avx512 {
extern const PeakLoops kPeak;
}
namespace avx512_vbmi {
extern const PeakLoops kPeak;
}
#elif defined(BQC_ARM)
namespace neon {
extern const PeakLoops kPeak;
}
namespace neon_dot {
extern const PeakLoops kPeak;
}
#endif

// 10**9 multiply-accumulates a second on this thread: the best of several stretches of about `seconds` in
// all.
double peak_gmacs(const PeakLoop& loop, double seconds);

}  // namespace bqc
