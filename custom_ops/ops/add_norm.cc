#include "ops/add_norm.h"

namespace bqc {

using ort::Type;

AddNorm::AddNorm(const Node& node, int64_t columns, size_t first)
    : geometry_(
          make_geometry(columns, node.integer("residual_block", 64), node.integer("residual_group", 0))),
      first_(first),
      epsilon_(node.real("epsilon", 1e-12f)) {
  const Tensor gamma = node.constant(first + 2, "gamma", Type::f32, 1),
               beta = node.constant(first + 3, "beta", Type::f32, 1);
  BQC_REQUIRE(gamma.count == columns && beta.count == columns, "gamma ", gamma.shape(), " and beta ",
              beta.shape(), " should be [", columns, "]");
  BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
  gamma_ = gamma.as<float>();
  beta_ = beta.as<float>();
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
  set->rows->layer_norm(y, gamma_, beta_, epsilon_, columns, scratch<int32_t>(Slot::row3, columns), z);
  return z;
}

}  // namespace bqc
