// Every kernel of one ISA level against another level, on odd shapes and hostile values.
#pragma once

#include <cstdint>
#include <functional>
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

// Tiles n16s4 [strips] of `inputs` padded inputs: any kept codes, at any inputs. draw(low, high) is any
// integer from low to high.
std::vector<uint8_t> any_sparse_tiles(const std::function<int64_t(int64_t, int64_t)>& draw, int64_t strips,
                                      int64_t inputs, int kept, int of, int bits);

}  // namespace bqc
