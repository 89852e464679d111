// The operators by family: what registration registers and what the library tells about itself.
#pragma once

#include <string>
#include <vector>

#include "bqc_ort.h"

namespace bqc {

// How a family's operators do most of their work: products with packed weights, with signs, with sparse
// weights, of signs by signs, with fp16 numbers, products of codes or of float32 numbers, or loops over rows.
enum class Work { weights, signs, sparse, xnor, halves, codes, floats, rows };

struct Family {
  const char* name;
  std::vector<OpSpec> (*operators)();
  Work work;
};

const std::vector<Family>& families();

// What a level's kernels for such work are made of.
std::string instructions(const KernelSet& set, Work work);

}  // namespace bqc
