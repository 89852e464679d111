#include "kernels/peak.h"

#include <algorithm>
#include <chrono>

namespace bqc {

double peak_gmacs(const PeakLoop& loop, double seconds) {
  using Clock = std::chrono::steady_clock;
  constexpr int kStretches = 200;
  const auto timed = [&](int64_t steps) {
    const auto start = Clock::now();
    volatile int64_t kept = loop.run(steps);
    static_cast<void>(kept);
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  int64_t steps = 1 << 12;
  double time = timed(steps);
  while (time < seconds / (4 * kStretches)) {
    steps *= 2;
    time = timed(steps);
  }
  steps =
      std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(steps) * seconds / (kStretches * time)));
  double best = timed(steps);
  for (int i = 1; i < kStretches; ++i) best = std::min(best, timed(steps));
  return static_cast<double>(steps * loop.macs) / best * 1e-9;
}

}  // namespace bqc
