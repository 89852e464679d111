// Which level runs: one table of levels and the CPU features each one needs.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace bqc {

struct Choice {
  const KernelSet* set;
  std::string reason;  // why no faster level was taken
};

// The best level that this CPU and BQC_MAX_ISA (read at every call) allow.
Choice choose_kernels();

// Every level that this CPU can run, portable first.
std::vector<const KernelSet*> runnable_kernels();

// Names of the levels in this library, and of the CPU's features that matter here.
std::vector<std::string> compiled_levels();
std::vector<std::string> cpu_features();

}  // namespace bqc
