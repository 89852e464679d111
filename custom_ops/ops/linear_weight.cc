#include "ops/linear_weight.h"

#include <algorithm>

namespace bqc {

#include "kernels/sparse.inc"

using ort::Type;

LinearWeight::LinearWeight(const Node& node, const KernelSet* set)
    : set_(set), bias_(node, 4, "bias"), columns_(bias_.count()), strips_(ceil_div(columns_, 16)) {
  BQC_REQUIRE(columns_ >= 1, "bias is empty");
}

BlockWeight::BlockWeight(const Node& node, const KernelSet* set) : LinearWeight(node, set) {
  node.expect("layout", "n16k4");
  bits_ = checked_weight_bits(node.integer("bits", 8), "bits");
  const Tensor weight = node.constant(2, "weight", Type::u8, 4);
  const Tensor exponents = node.constant(3, "weight_exponents", Type::i8, 2);
  BQC_REQUIRE(weight.dims[0] == strips_ && weight.dims[2] == 16 && weight.dims[3] == 4, "weight ",
              weight.shape(), " should be [", strips_, ", ceil(K' * ", bits_, "/32), 16, 4] for a bias of ",
              columns_);
  BQC_REQUIRE(exponents.dims[1] == strips_ * 16 && exponents.dims[0] >= 1, "weight_exponents ",
              exponents.shape(), " should be [blocks, ", strips_ * 16, "]");
  // K follows from K' and the number of blocks only with the group; the first call checks it against the
  // input.
  padded_inputs_ = weight.dims[1] * 32 / bits_ / 16 * 16;
  blocks_ = exponents.dims[0];
  BQC_REQUIRE(padded_inputs_ >= 16 && tile_count(padded_inputs_, bits_) == weight.dims[1], "weight ",
              weight.shape(), " is no whole number of 16 inputs");
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
  const Tensor scales = node.real_constant(3, "scales", 2);
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
    scales_.push_back(real_at(scales, scales.dims[1] == 1 ? i / padded : i));
  }
  planes_ = {planes.as<uint8_t>(), scales_.data(), count, strips_};
}

void SignWeight::check(const Tensor& codes, const Geometry& g) const {
  BQC_REQUIRE(g.groups * round_up(g.span, 16) == padded_inputs_, "input ", codes.shape(), " in ", g.groups,
              " groups does not fit planes of ", padded_inputs_, " padded inputs");
}

// Tables are several times as large as the codes, and the planes small enough to be read once more.
int64_t SignWeight::panel_rows(const Geometry& g) const {
  constexpr int64_t kPanelBytes = 640 * 1024;
  return std::clamp<int64_t>(kPanelBytes / panel_bytes(g, 1), 8, 48);
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

namespace {

// Whether the indices of a step name an input twice: each output has 4 / kept times `kept` slots.
bool repeats(const SparseTiles& w, const SparseStrip& strip, int64_t step) {
  for (int output = 0; output < 16; ++output) {
    int seen = 0;
    for (int slot = 0; slot < 4; ++slot) {
      const int p = 4 * output + slot;
      int index = strip.low[step * 16 + p % 16] >> p / 16 * 2 & 3;
      if (w.of == 8) index |= (strip.high[step * 8 + p % 8] >> p / 8 & 1) << 2;
      const int bit = 1 << (slot / w.kept * w.of + index);
      if (seen & bit) return true;
      seen |= bit;
    }
  }
  return false;
}

// Whether a code of a step is the one that has no opposite.
bool lopsided(const SparseTiles& w, const SparseStrip& strip, int64_t step) {
  const uint8_t *begin = strip.codes + step * 8 * w.bits, *end = begin + 8 * w.bits;
  return std::any_of(
      begin, end, [&](uint8_t byte) { return w.bits == 8 ? byte == 0 : (byte & 15) == 0 || byte >> 4 == 0; });
}

}  // namespace

SparseWeight::SparseWeight(const Node& node, const KernelSet* set) : LinearWeight(node, set) {
  node.expect("layout", "n16s4");
  const int64_t kept = node.integer("kept", 2), of = node.integer("of", 4), bits = node.integer("bits", 8);
  BQC_REQUIRE((of == 4 && (kept == 1 || kept == 2)) || (of == 8 && (kept == 2 || kept == 4)),
              "attributes kept ", kept, " and of ", of, ": 2 of 4, 1 of 4, 2 of 8 or 4 of 8 are kept");
  BQC_REQUIRE(bits == 8 || bits == 4, "attribute bits is ", bits, "; kept codes have 8 or 4");
  const Tensor tiles = node.constant(2, "tiles", Type::u8, 2);
  const Tensor scales = node.constant(3, "scales", Type::f32, 1);
  tiles_ = {tiles.as<uint8_t>(),    scales.as<float>(),   strips_,
            static_cast<int>(kept), static_cast<int>(of), static_cast<int>(bits)};
  // 16 inputs take one step or two.
  const int64_t step = 8 * bits + (of == 8 ? 24 : 16), sixteen = 16 / step_inputs(tiles_) * step;
  BQC_REQUIRE(tiles.dims[0] == strips_ && tiles.dims[1] >= 1 && tiles.dims[1] % sixteen == 0, "tiles ",
              tiles.shape(), " should be [", strips_, ", K'/16 * ", sixteen, "] for a bias of ", columns_);
  padded_inputs_ = tiles.dims[1] / sixteen * 16;
  BQC_REQUIRE(padded_inputs_ <= kMaxSum, "tiles ", tiles.shape(), " have more than ", kMaxSum, " inputs");
  BQC_REQUIRE(scales.dims[0] == strips_ * 16, "scales ", scales.shape(), " should be [", strips_ * 16, "]");
  check_finite(scales, "scales");
  for (int64_t s = 0; s < strips_; ++s) {
    const SparseStrip strip = strip_of(tiles_, padded_inputs_, s);
    for (int64_t i = 0; i < padded_inputs_ / step_inputs(tiles_); ++i) {
      BQC_REQUIRE(!lopsided(tiles_, strip, i), "tiles ", tiles.shape(), " hold a code of ",
                  -(1 << (bits - 1)), "; codes are symmetric");
      BQC_REQUIRE(!repeats(tiles_, strip, i), "tiles ", tiles.shape(), " name an input of an output twice");
    }
  }
}

void SparseWeight::check(const Tensor& codes, const Geometry& g) const {
  BQC_REQUIRE(g.groups * round_up(g.span, 16) == padded_inputs_, "input ", codes.shape(), " in ", g.groups,
              " groups does not fit tiles of ", padded_inputs_, " padded inputs");
}

int64_t SparseWeight::panel_rows(const Geometry&) const { return 48; }

int64_t SparseWeight::panel_bytes(const Geometry& g, int64_t rows) const {
  return set_->sparse->panel_bytes(&g, rows);
}

void SparseWeight::prepare(const Geometry& g, const int8_t* codes, const int8_t* exponents, int64_t rows,
                           void* panel) const {
  set_->sparse->prepare(&g, codes, g.length, exponents, g.count, rows, panel);
}

void SparseWeight::multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                            float* out) const {
  set_->sparse->multiply(&g, panel, rows, &tiles_, first, last, out, strips_ * 16);
}

}  // namespace bqc
