#include "ops/add_norm.h"

namespace bqc {

Norm::Norm(const Node& node, int64_t columns, size_t first)
    : epsilon_(node.real("epsilon", 1e-12f)), gamma_(node, first, "gamma"), beta_(node, first + 1, "beta") {
  BQC_REQUIRE(gamma_.count() == columns && beta_.count() == columns, "gamma ", gamma_.shape(), " and beta ",
              beta_.shape(), " should be [", columns, "]");
  BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
}

void Norm::apply(const KernelSet* set, const float* x, float* y) const {
  const int64_t columns = gamma_.count();
  set->rows->layer_norm(x, gamma_.data(), beta_.data(), epsilon_, columns,
                        scratch<int32_t>(Slot::row3, columns), y);
}

AddNorm::AddNorm(const Node& node, int64_t columns, size_t first)
    : geometry_(
          make_geometry(columns, node.integer("residual_block", 64), node.integer("residual_group", 0))),
      first_(first),
      norm_(node, columns, first + 2) {}

AddNorm::Residual AddNorm::residual(const Call& call, const Tensor& input) const {
  const Tensor codes = call.input(first_), exponents = call.input(first_ + 1);
  check_pair(codes, exponents, geometry_, "residual");
  BQC_REQUIRE(rows_of(codes) == rows_of(input), "residual ", codes.shape(), " and input ", input.shape(),
              " should have the same rows");
  return {codes.as<int8_t>(), exponents.as<int8_t>()};
}

const float* AddNorm::apply(const KernelSet* set, const Residual& residual, int64_t row, float* y) const {
  const int64_t columns = geometry_.length;
  set->rows->add_dequantized(residual.codes + row * columns, residual.exponents + row * geometry_.count,
                             &geometry_, y);
  float* z = scratch<float>(Slot::row2, columns);
  norm_.apply(set, y, z);
  return z;
}

}  // namespace bqc
