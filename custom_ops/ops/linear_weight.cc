#include "ops/linear_weight.h"

#include <algorithm>

namespace bqc {

using ort::Type;

LinearWeight::LinearWeight(const Node& node, const KernelSet* set) : set_(set) {
  const Tensor bias = node.constant(4, "bias", Type::f32, 1);
  BQC_REQUIRE(bias.count >= 1, "bias is empty");
  columns_ = bias.count;
  strips_ = ceil_div(columns_, 16);
  bias_ = bias.as<float>();
}

BlockWeight::BlockWeight(const Node& node, const KernelSet* set) : LinearWeight(node, set) {
  node.expect("layout", "n16k4");
  bits_ = checked_weight_bits(node.integer("bits", 8), "bits");
  const Tensor weight = node.constant(2, "weight", Type::u8, 4);
  const Tensor exponents = node.constant(3, "weight_exponents", Type::i8, 2);
  BQC_REQUIRE(weight.dims[0] == strips_ && weight.dims[2] == 16 && weight.dims[3] == 4, "weight ",
              weight.shape(), " should be [", strips_, ", K' * ", bits_, "/32, 16, 4] for a bias of ",
              columns_);
  BQC_REQUIRE(exponents.dims[1] == strips_ * 16 && exponents.dims[0] >= 1, "weight_exponents ",
              exponents.shape(), " should be [blocks, ", strips_ * 16, "]");
  // K follows from K' and the number of blocks only with the group; the first call checks it against the
  // input.
  padded_inputs_ = weight.dims[1] * 32 / bits_;
  blocks_ = exponents.dims[0];
  BQC_REQUIRE(
      padded_inputs_ >= 16 && padded_inputs_ % 16 == 0 && padded_inputs_ * bits_ == weight.dims[1] * 32,
      "weight ", weight.shape(), " is no whole number of 16 inputs");
  BQC_REQUIRE(padded_inputs_ <= kMaxSum, "weight ", weight.shape(), " has more than ", kMaxSum, " inputs");
  check_exponents(exponents, "weight_exponents");
  tiles_ = weight.as<uint8_t>();
  exponents_ = exponents.as<int8_t>();
}

void BlockWeight::check(const Tensor& codes, const Geometry& g) const {
  BQC_REQUIRE(g.groups * round_up(g.span, 16) == padded_inputs_ && g.count == blocks_, "input ",
              codes.shape(), " in ", g.count, " blocks does not fit a weight of ", padded_inputs_,
              " padded inputs in ", blocks_, " blocks");
}

int64_t BlockWeight::panel_rows(const Geometry&) const { return 48; }

int64_t BlockWeight::panel_bytes(const Geometry& g, int64_t rows) const {
  return set_->gemm->panel_bytes(&g, rows);
}

void BlockWeight::prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
                          void* panel) const {
  set_->gemm->prepare(&g, bits_, codes, g.length, exponents, g.count, rows, panel);
}

void BlockWeight::multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                           float* out) const {
  set_->gemm->multiply(&g, bits_, panel, rows, tiles_, exponents_, strips_, first, last, out, strips_ * 16);
}

SignWeight::SignWeight(const Node& node, const KernelSet* set) : LinearWeight(node, set) {
  node.expect("layout", "n16k16");
  const Tensor planes = node.constant(2, "planes", Type::u8, 5);
  const Tensor scales = node.constant(3, "scales", Type::f32, 2);
  const int64_t count = planes.dims[0], padded = strips_ * 16;
  BQC_REQUIRE(count == 1 || count == 2, "planes ", planes.shape(), " are ", count, "; a weight has 1 or 2");
  BQC_REQUIRE(planes.dims[1] == strips_ && planes.dims[2] >= 1 && planes.dims[3] == 2 && planes.dims[4] == 16,
              "planes ", planes.shape(), " should be [", count, ", ", strips_,
              ", K'/16, 2, 16] for a bias of ", columns_);
  BQC_REQUIRE(planes.dims[2] <= kMaxSum / 16, "planes ", planes.shape(), " have more than ", kMaxSum,
              " inputs");
  BQC_REQUIRE(scales.dims[0] == count && (scales.dims[1] == padded || scales.dims[1] == 1), "scales ",
              scales.shape(), " should be [", count, ", ", padded, "] or [", count, ", 1]");
  check_finite(scales, "scales");
  padded_inputs_ = planes.dims[2] * 16;
  for (int64_t i = 0; i < count * padded; ++i) {
    scales_.push_back(scales.as<float>()[scales.dims[1] == 1 ? i / padded : i]);
  }
  planes_ = {planes.as<uint8_t>(), scales_.data(), count, strips_};
}

void SignWeight::check(const Tensor& codes, const Geometry& g) const {
  BQC_REQUIRE(g.groups * round_up(g.span, 16) == padded_inputs_, "input ", codes.shape(), " in ", g.groups,
              " groups does not fit planes of ", padded_inputs_, " padded inputs");
}

// Tables are several times as large as the codes, and the planes small enough to be read once more.
int64_t SignWeight::panel_rows(const Geometry& g) const {
  constexpr int64_t kPanelBytes = 512 * 1024;
  return std::clamp<int64_t>(kPanelBytes / panel_bytes(g, 1) / 4 * 4, 4, 48);
}

int64_t SignWeight::panel_bytes(const Geometry& g, int64_t rows) const {
  return set_->signs->panel_bytes(&g, rows);
}

void SignWeight::prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
                         void* panel) const {
  set_->signs->prepare(&g, codes, g.length, exponents, g.count, rows, panel);
}

void SignWeight::multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                          float* out) const {
  set_->signs->multiply(&g, panel, rows, &planes_, first, last, out, strips_ * 16);
}

}  // namespace bqc
