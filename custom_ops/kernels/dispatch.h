// Which level runs: one table of levels and the CPU features each one needs.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/peak.h"

namespace bqc {

struct Choice {
  const KernelSet* set;
  std::string reason;  // why no faster level was taken
};

// The best level that this CPU and BQC_MAX_ISA (read at every call) allow and that supports weights of so
// many bits; the portable one where none does.
Choice choose_kernels(int64_t weight_bits = 8);

// Products of fp16 numbers in bfloat16; null where the CPU has none.
const HalfProducts* bf16_products();

struct HalfChoice {
  const HalfProducts* products;
  std::string reason;  // empty where nothing but the level was asked for
};

// The products of a level, or those that BQC_FP16_ARITHMETIC (read at every call) asks for.
HalfChoice choose_half(const KernelSet& set);

// Every level that this CPU can run, portable first.
std::vector<const KernelSet*> runnable_kernels();

// Loops that measure a level's peak; null for a level that this CPU cannot run or that has none of that name.
const PeakLoops* peak_loops(const std::string& level);

// Every level of this library, slowest first.
std::vector<const KernelSet*> compiled_kernels();

// Names of the CPU's features that matter here.
std::vector<std::string> cpu_features();

}  // namespace bqc
