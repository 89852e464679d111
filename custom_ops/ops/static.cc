// StaticQuantize and StaticQuantizeValues: float to codes at a given exponent.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/constants.h"
#include "ops/common.h"

namespace bqc {
namespace {

using ort::Type;

int8_t exponent_of(const Tensor& exponent) {
  BQC_REQUIRE(exponent.rank() == 1 && exponent.count == 1, "exponent ", exponent.shape(), " should be [1]");
  const float e = exponent.as<float>()[0];
  if (std::isnan(e)) return 0;
  constexpr float kLow = kMinExponent, kHigh = kMaxStaticExponent;
  return static_cast<int8_t>(std::nearbyint(std::min(std::max(e, kLow), kHigh)));
}

// For every row of x calls body(row, first element of it, exponents of it [count]).
template <class Body>
void each_row(const Call& call, const Tensor& x, const Geometry& g, int8_t e, const Body& body) {
  parallel_ranges(call, rows_of(x), 8, [&](int64_t first, int64_t last) {
    int8_t* exponents = scratch<int8_t>(Slot::exponents, g.count);
    std::fill_n(exponents, g.count, e);
    for (int64_t r = first; r < last; ++r) body(r, x.as<float>() + r * g.length, exponents);
  });
}

class StaticQuantize : public Kernel {
 public:
  StaticQuantize(const Node& node, const KernelSet* kernels)
      : format_(Format::from(node, "")), minimum_(node.real("minimum", -std::numeric_limits<float>::max())) {
    set = kernels;
    BQC_REQUIRE(minimum_ <= 0, "attribute minimum is not a number of at most 0");
  }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    BQC_REQUIRE(x.rank() >= 1, "x is a scalar");
    const Geometry g = make_geometry(x.last(), format_.block, format_.group);
    const int8_t e = exponent_of(call.input(1));
    const float offset = zero(e) * std::ldexp(1.0f, e);
    int8_t* codes = call.output<int8_t>(0, x.dims);
    int8_t* exponents = call.output<int8_t>(1, with_last(x.dims, g.count));
    call.output<float>(2, {1})[0] = offset;
    std::fill_n(exponents, rows_of(x) * g.count, e);
    each_row(call, x, g, e, [&](int64_t row, const float* from, const int8_t* at) {
      if (offset != 0) {
        float* moved = scratch<float>(Slot::row, g.length);
        // NaN counts as 0 before it is moved; what is infinite stays that.
        for (int64_t i = 0; i < g.length; ++i) moved[i] = (from[i] == from[i] ? from[i] : 0.0f) + offset;
        from = moved;
      }
      set->rows->encode(from, at, &g, format_.bits, codes + row * g.length);
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (!x.empty()) infer_quantized(node, x, x.back(), "");
    node.output(2, Type::f32, {Dim(1)});
  }

 private:
  float zero(int8_t e) const {
    const float high = static_cast<float>((1 << (format_.bits - 1)) - 1),
                low = format_.bits == 4 ? -8 : -high;
    const float below = std::nearbyint(minimum_ * std::ldexp(1.0f, -e));
    return std::max(std::min(low - below, 0.0f), low);
  }

  Format format_;
  float minimum_;
};

class StaticQuantizeValues : public Kernel {
 public:
  StaticQuantizeValues(const Node& node, const KernelSet* kernels)
      : bits_(checked_bits(node.integer("bits", 8), "bits")),
        heads_(node.integer("heads", 12)),
        block_(node.integer("block", 64)) {
    set = kernels;
    BQC_REQUIRE(heads_ >= 1 && block_ >= 1, "attributes heads ", heads_, " and block ", block_,
                " must be at least 1");
  }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    BQC_REQUIRE(x.rank() == 3, "x ", x.shape(), " should have 3 dimensions");
    BQC_REQUIRE(x.last() >= 1 && x.last() % heads_ == 0, x.last(), " columns are not a whole number of ",
                heads_, " heads");
    const Geometry g = make_geometry(x.last(), block_, x.last() / heads_);
    const int8_t e = exponent_of(call.input(1));
    int8_t* codes = call.output<int8_t>(0, x.dims);
    int8_t* exponents = call.output<int8_t>(1, {x.dims[0], g.count});
    std::fill_n(exponents, x.dims[0] * g.count, e);
    each_row(call, x, g, e, [&](int64_t row, const float* from, const int8_t* at) {
      set->rows->encode(from, at, &g, bits_, codes + row * g.length);
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (x.size() != 3) return;
    const int64_t heads = node.integer("heads", 12), block = node.integer("block", 64);
    const bool known = x[2].value > 0 && heads > 0 && x[2].value % heads == 0;
    node.output(0, Type::i8, x);
    node.output(1, Type::i8, {x[0], Dim(known ? block_count(x[2].value, block, x[2].value / heads) : -1)});
  }

 private:
  int bits_;
  int64_t heads_, block_;
};

}  // namespace

std::vector<OpSpec> static_ops() {
  return {
      {"StaticQuantize",
       {Type::f32, Type::f32},
       {Type::i8, Type::i8, Type::f32},
       make_kernel<StaticQuantize>,
       StaticQuantize::infer},
      {"StaticQuantizeValues",
       {Type::f32, Type::f32},
       {Type::i8, Type::i8},
       make_kernel<StaticQuantizeValues>,
       StaticQuantizeValues::infer},
  };
}

}  // namespace bqc
