// The end of a sub-layer: a residual is added and the sum normalised.
#pragma once

#include "ops/common.h"

namespace bqc {

// Inputs `first` and first + 1 of a node, gamma and beta, for rows of so many columns.
class Norm {
 public:
  Norm(const Node& node, int64_t columns, size_t first);

  // y [columns] = x normalised.
  void apply(const KernelSet* set, const float* x, float* y) const;

 private:
  float epsilon_;
  Numbers gamma_, beta_;
};

// Inputs `first` to first + 3 of a linear of so many columns: residual, residual exponents, gamma, beta.
class AddNorm {
 public:
  AddNorm(const Node& node, int64_t columns, size_t first);

  // The residual of a call. Throws where it does not fit the rows of the input.
  struct Residual {
    const int8_t *codes, *exponents;
  };
  Residual residual(const Call& call, const Tensor& input) const;
  // The normalised sum of row y [columns], which is changed, and the residual's, in scratch memory.
  const float* apply(const KernelSet* set, const Residual& residual, int64_t row, float* y) const;

 private:
  Geometry geometry_;
  size_t first_;
  Norm norm_;
};

}  // namespace bqc
