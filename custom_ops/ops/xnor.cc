// Binarize and BinarizeCodes; XnorLinear and its fused forms: products of signs with a weight made of signs.
#include <vector>

#include "ops/add_norm.h"
#include "ops/product.h"

namespace bqc {
namespace {

using ort::Type;

int64_t bytes_of(int64_t columns) { return ceil_div(columns, 8); }

Dim bytes_of(const Dim& columns) { return columns.value > 0 ? Dim(bytes_of(columns.value)) : Dim(); }

// x [..., K] of floats or codes to bits [..., ceil8(K) / 8].
template <class Element, void (*XnorKernels::*Row)(const Element*, int64_t, uint8_t*)>
class Bits : public Kernel {
 public:
  Bits(const Node&, const KernelSet* kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    BQC_REQUIRE(x.rank() >= 1 && x.last() >= 1, "input ", x.shape(), " has no columns");
    const int64_t columns = x.last(), bytes = bytes_of(columns);
    uint8_t* bits = call.output<uint8_t>(0, with_last(x.dims, bytes));
    parallel_ranges(call, rows_of(x), 16, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        (set->xnor->*Row)(x.as<Element>() + r * columns, columns, bits + r * bytes);
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (!x.empty()) node.output(0, Type::u8, with_last(x, bytes_of(x.back())));
  }
};

using Binarize = Bits<float, &XnorKernels::binarize>;
using BinarizeCodes = Bits<int8_t, &XnorKernels::binarize_codes>;

// The four inputs that all linears share: bits, tiles, scales, bias.
class Linear {
 public:
  Linear(const Node& node, const KernelSet* set)
      : set_(set), columns_(node.integer("columns", 768)), bias_(node, 3, "bias"), outputs_(bias_.count()) {
    node.expect("layout", "n16k64");
    const Tensor tiles = node.constant(1, "tiles", Type::u8, 4),
                 scales = node.constant(2, "scales", Type::f32, 1);
    BQC_REQUIRE(outputs_ >= 1, "bias is empty");
    const int64_t strips = ceil_div(outputs_, 16), padded = 16 * strips;
    BQC_REQUIRE(columns_ >= 1 && columns_ <= kMaxSum, "attribute columns is ", columns_, "; a row has 1 to ",
                kMaxSum);
    BQC_REQUIRE(tiles.dims[0] == strips && tiles.dims[1] == ceil_div(columns_, 64) && tiles.dims[2] == 8 &&
                    tiles.dims[3] == 16,
                "tiles ", tiles.shape(), " should be [", strips, ", ", ceil_div(columns_, 64),
                ", 8, 16] for ", columns_, " columns and a bias of ", outputs_);
    BQC_REQUIRE(scales.count == padded || scales.count == 1, "scales ", scales.shape(), " should be [",
                padded, "] or [1]");
    check_finite(scales, "scales");
    for (int64_t i = 0; i < padded; ++i) scales_.push_back(scales.as<float>()[scales.count == 1 ? 0 : i]);
    tiles_ = {tiles.as<uint8_t>(), scales_.data(), columns_, strips};
  }

  int64_t outputs() const { return outputs_; }

  // For every row calls epilogue(row, y [outputs]), which may change y.
  template <class Epilogue>
  void run(const Call& call, const Tensor& bits, const Epilogue& epilogue) const {
    const int64_t rows = rows_of(bits);
    BQC_REQUIRE(rows <= kMaxRows, "bits ", bits.shape(), " have more than ", kMaxRows, " rows");
    const Product product = {set_->xnor, tiles_, bits.as<uint8_t>()};
    run_product(call, product, rows, [&](int64_t row, const float* products) {
      float* y = scratch<float>(Slot::row, outputs_);
      set_->rows->add_bias(products, bias_.data(), outputs_, y);
      epilogue(row, y);
    });
  }

  // Throws where the bits of a call are not those of rows of `columns`.
  void check(const Tensor& bits) const {
    BQC_REQUIRE(bits.rank() >= 1 && bits.last() == bytes_of(columns_), "bits ", bits.shape(),
                " should end in ", bytes_of(columns_), " bytes for ", columns_, " columns");
  }

 private:
  struct Product {
    const XnorKernels* kernels;
    const BitTiles& tiles;
    const uint8_t* bits;

    int64_t strips() const { return tiles.strips; }
    int64_t panel_rows() const { return 48; }
    int64_t product_rows() const { return cached_rows(tiles.strips); }
    int64_t tile_rows() const { return 16; }
    int64_t panel_bytes(int64_t rows) const { return kernels->panel_bytes(tiles.columns, rows); }
    void prepare(int64_t row, int64_t rows, void* panel) const {
      const int64_t bytes = bytes_of(tiles.columns);
      kernels->prepare(tiles.columns, bits + row * bytes, bytes, rows, panel);
    }
    void multiply(const void* panel, int64_t rows, int64_t first, int64_t last, float* out) const {
      kernels->multiply(panel, rows, &tiles, first, last, out, 16 * tiles.strips);
    }
  };

  const KernelSet* set_;
  int64_t columns_;
  Numbers bias_;
  int64_t outputs_;
  std::vector<float> scales_;  // [16 * strips]
  BitTiles tiles_;
};

// Output columns in shape inference: the length of the bias.
Dim bias_columns(const Inference& node) {
  const std::vector<Dim> bias = node.input(3);
  return bias.size() == 1 ? bias[0] : Dim();
}

class XnorLinear : public Kernel {
 public:
  XnorLinear(const Node& node, const KernelSet* kernels) : linear_(node, kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor bits = call.input(0);
    linear_.check(bits);
    const int64_t outputs = linear_.outputs();
    float* out = call.output<float>(0, with_last(bits.dims, outputs));
    linear_.run(call, bits,
                [&](int64_t row, const float* y) { std::copy(y, y + outputs, out + row * outputs); });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> bits = node.input(0);
    if (!bits.empty()) node.output(0, Type::f32, with_last(bits, bias_columns(node)));
  }

 private:
  Linear linear_;
};

class XnorLinearBinarize : public Kernel {
 public:
  XnorLinearBinarize(const Node& node, const KernelSet* kernels) : linear_(node, kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor bits = call.input(0);
    linear_.check(bits);
    const int64_t outputs = linear_.outputs(), bytes = bytes_of(outputs);
    uint8_t* out = call.output<uint8_t>(0, with_last(bits.dims, bytes));
    linear_.run(call, bits,
                [&](int64_t row, const float* y) { set->xnor->binarize(y, outputs, out + row * bytes); });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> bits = node.input(0);
    if (!bits.empty()) node.output(0, Type::u8, with_last(bits, bytes_of(bias_columns(node))));
  }

 private:
  Linear linear_;
};

class XnorLinearAddNorm : public Kernel {
 public:
  XnorLinearAddNorm(const Node& node, const KernelSet* kernels)
      : linear_(node, kernels),
        end_(node, linear_.outputs(), 4),
        format_(Format::from(node, "out_")),
        out_(make_geometry(linear_.outputs(), format_.block, format_.group)) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor bits = call.input(0);
    linear_.check(bits);
    const AddNorm::Residual residual = end_.residual(call, bits);
    int8_t* codes = call.output<int8_t>(0, with_last(bits.dims, out_.length));
    int8_t* exponents = call.output<int8_t>(1, with_last(bits.dims, out_.count));
    linear_.run(call, bits, [&](int64_t row, float* y) {
      set->rows->quantize(end_.apply(set, residual, row, y), &out_, format_.bits, codes + row * out_.length,
                          exponents + row * out_.count);
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> bits = node.input(0);
    if (!bits.empty()) infer_quantized(node, bits, bias_columns(node), "out_");
  }

 private:
  Linear linear_;
  AddNorm end_;
  Format format_;
  Geometry out_;
};

}  // namespace

std::vector<OpSpec> binarize_ops() {
  return {
      {"Binarize", {Type::f32}, {Type::u8}, make_kernel<Binarize>, Binarize::infer},
      {"BinarizeCodes", {Type::i8}, {Type::u8}, make_kernel<BinarizeCodes>, BinarizeCodes::infer},
  };
}

std::vector<OpSpec> xnor_linear_ops() {
  const Type real = Type::undefined;  // float32 or float16
  const std::vector<Type> four = {Type::u8, Type::u8, Type::f32, real};
  std::vector<Type> eight = four;
  for (const Type more : {Type::i8, Type::i8, real, real}) eight.push_back(more);
  return {
      {"XnorLinear", four, {Type::f32}, make_kernel<XnorLinear>, XnorLinear::infer},
      {"XnorLinearBinarize", four, {Type::u8}, make_kernel<XnorLinearBinarize>, XnorLinearBinarize::infer},
      {"XnorLinearAddNorm",
       eight,
       {Type::i8, Type::i8},
       make_kernel<XnorLinearAddNorm>,
       XnorLinearAddNorm::infer},
  };
}

}  // namespace bqc
