// Gelu, Tanh, LayerNorm: functions of float, the same bits everywhere.
#include "ops/common.h"

namespace bqc {
namespace {

using ort::Type;

void infer_same(const Inference& node) {
  const std::vector<Dim> x = node.input(0);
  if (!x.empty()) node.output(0, Type::f32, x);
}

class Gelu : public Kernel {
 public:
  Gelu(const Node& node, const KernelSet* kernels) : approximate_(node.integer("approximate", 0) != 0) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    float* y = call.output<float>(0, x.dims);
    parallel_ranges(call, x.count, 4096, [&](int64_t first, int64_t last) {
      set->rows->gelu(x.as<float>() + first, last - first, approximate_, y + first);
    });
  }

 private:
  int approximate_;
};

class Tanh : public Kernel {
 public:
  Tanh(const Node&, const KernelSet* kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    float* y = call.output<float>(0, x.dims);
    parallel_ranges(call, x.count, 4096, [&](int64_t first, int64_t last) {
      set->rows->tanh(x.as<float>() + first, last - first, y + first);
    });
  }
};

class LayerNorm : public Kernel {
 public:
  LayerNorm(const Node& node, const KernelSet* kernels) : epsilon_(node.real("epsilon", 1e-12f)) {
    set = kernels;
    BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
  }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0), gamma = call.input(1), beta = call.input(2);
    BQC_REQUIRE(x.rank() >= 1 && x.last() >= 1, "x ", x.shape(), " has no columns");
    const int64_t columns = x.last();
    BQC_REQUIRE(gamma.rank() == 1 && gamma.count == columns && beta.rank() == 1 && beta.count == columns,
                "gamma ", gamma.shape(), " and beta ", beta.shape(), " should be [", columns, "]");
    float* y = call.output<float>(0, x.dims);
    parallel_ranges(call, rows_of(x), 8, [&](int64_t first, int64_t last) {
      int32_t* q = scratch<int32_t>(Slot::row, columns);
      for (int64_t r = first; r < last; ++r) {
        set->rows->layer_norm(x.as<float>() + r * columns, gamma.as<float>(), beta.as<float>(), epsilon_,
                              columns, q, y + r * columns);
      }
    });
  }

 private:
  float epsilon_;
};

}  // namespace

std::vector<OpSpec> elementwise_ops() {
  return {
      {"Gelu", {Type::f32}, {Type::f32}, make_kernel<Gelu>, infer_same},
      {"Tanh", {Type::f32}, {Type::f32}, make_kernel<Tanh>, infer_same},
      {"LayerNorm", {Type::f32, Type::f32, Type::f32}, {Type::f32}, make_kernel<LayerNorm>, infer_same},
  };
}

}  // namespace bqc
