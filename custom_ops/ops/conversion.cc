// BlockQuantize, BlockDequantize, BlockQuantizeValues and its ragged form: between float and blocks.
#include "ops/values.h"

namespace bqc {
namespace {

using ort::Type;

// Sequences that seq_start [batch + 1] tells of, in shape inference.
Dim sequences_of(const std::vector<Dim>& seq_start) {
  return seq_start.size() == 1 && seq_start[0].value > 0 ? Dim(seq_start[0].value - 1) : Dim();
}

class BlockQuantize : public Kernel {
 public:
  BlockQuantize(const Node& node, const KernelSet* kernels) : format_(Format::from(node, "")) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    BQC_REQUIRE(x.rank() >= 1, "x is a scalar");
    const Geometry g = make_geometry(x.last(), format_.block, format_.group);
    int8_t* codes = call.output<int8_t>(0, x.dims);
    int8_t* exponents = call.output<int8_t>(1, with_last(x.dims, g.count));
    parallel_ranges(call, rows_of(x), 8, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        set->rows->quantize(x.as<float>() + r * g.length, &g, format_.bits, codes + r * g.length,
                            exponents + r * g.count);
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (!x.empty()) infer_quantized(node, x, x.back(), "");
  }

 private:
  Format format_;
};

class BlockDequantize : public Kernel {
 public:
  BlockDequantize(const Node& node, const KernelSet* kernels)
      : block_(node.integer("block", 64)), group_(node.integer("group", 0)) {
    set = kernels;
    BQC_REQUIRE(block_ >= 1 && group_ >= 0, "attributes block ", block_, " and group ", group_,
                ": a block is at least 1, a group at least 0");
  }

  void compute(const Call& call) const override {
    const Tensor codes = call.input(0), exponents = call.input(1);
    BQC_REQUIRE(codes.rank() >= 1, "codes is a scalar");
    const Geometry g = make_geometry(codes.last(), block_, group_);
    check_pair(codes, exponents, g, "input");
    float* y = call.output<float>(0, codes.dims);
    parallel_ranges(call, rows_of(codes), 8, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        set->rows->dequantize(codes.as<int8_t>() + r * g.length, exponents.as<int8_t>() + r * g.count, &g,
                              y + r * g.length);
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> codes = node.input(0);
    if (!codes.empty()) node.output(0, Type::f32, codes);
  }

 private:
  int64_t block_, group_;
};

class BlockQuantizeValues : public Kernel {
 public:
  BlockQuantizeValues(const Node& node, const KernelSet* kernels) : values_(node, "") { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0), mask = call.input(1);
    BQC_REQUIRE(x.rank() == 3, "x ", x.shape(), " should have 3 dimensions");
    values_.run(call, set, x.as<float>(), x.dims, mask);
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (x.size() == 3) ValuesQuantizer::infer(node, x, x[0], x.back(), "");
  }

 private:
  ValuesQuantizer values_;
};

class RaggedBlockQuantizeValues : public Kernel {
 public:
  RaggedBlockQuantizeValues(const Node& node, const KernelSet* kernels) : values_(node, "") { set = kernels; }

  void compute(const Call& call) const override {
    values_.run_ragged(call, set, call.input(0), call.input(1), call.input(2));
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (x.size() == 2) ValuesQuantizer::infer(node, x, sequences_of(node.input(2)), x.back(), "");
  }

 private:
  ValuesQuantizer values_;
};

}  // namespace

std::vector<OpSpec> conversion_ops() {
  return {
      {"BlockQuantize", {Type::f32}, {Type::i8, Type::i8}, make_kernel<BlockQuantize>, BlockQuantize::infer},
      {"BlockDequantize",
       {Type::i8, Type::i8},
       {Type::f32},
       make_kernel<BlockDequantize>,
       BlockDequantize::infer},
      {"BlockQuantizeValues",
       {Type::f32, Type::i64},
       {Type::i8, Type::i8},
       make_kernel<BlockQuantizeValues>,
       BlockQuantizeValues::infer},
      {"RaggedBlockQuantizeValues",
       {Type::f32, Type::i64, Type::i64},
       {Type::i8, Type::i8},
       make_kernel<RaggedBlockQuantizeValues>,
       RaggedBlockQuantizeValues::infer},
  };
}

}  // namespace bqc
