#include "ops/add_norm.h"

namespace bqc {

AddNorm::AddNorm(const Node& node, int64_t columns, size_t first)
    : geometry_(
          make_geometry(columns, node.integer("residual_block", 64), node.integer("residual_group", 0))),
      first_(first),
      epsilon_(node.real("epsilon", 1e-12f)),
      gamma_(node, first + 2, "gamma"),
      beta_(node, first + 3, "beta") {
  BQC_REQUIRE(gamma_.count() == columns && beta_.count() == columns, "gamma ", gamma_.shape(), " and beta ",
              beta_.shape(), " should be [", columns, "]");
  BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
}

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
  set->rows->layer_norm(y, gamma_.data(), beta_.data(), epsilon_, columns,
                        scratch<int32_t>(Slot::row3, columns), z);
  return z;
}

}  // namespace bqc
