// Every kernel of one ISA level against another level, on odd shapes and hostile values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace bqc {

struct LevelCheck {
  std::string what;
  bool same;
};

// Runs both levels on the same random inputs and compares the bytes of all results.
std::vector<LevelCheck> compare_levels(const KernelSet& expected, const KernelSet& actual, uint32_t seed);

}  // namespace bqc
