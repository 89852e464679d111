// BlockLinear, SignLinear and SparseLinear and their fused forms: y = x W^T + bias on blocks, then whatever
// follows while the rows are in cache.
#include <memory>
#include <utility>

#include "ops/add_norm.h"
#include "ops/linear_weight.h"
#include "ops/product.h"
#include "ops/values.h"

namespace bqc {
namespace {

using ort::Type;

// The five inputs that all forms share.
class Linear {
 public:
  Linear(const Node& node, std::unique_ptr<const LinearWeight> weight)
      : weight_(std::move(weight)), block_(node.integer("block", 64)), group_(node.integer("group", 0)) {
    BQC_REQUIRE(block_ >= 1 && group_ >= 0, "attributes block ", block_, " and group ", group_,
                ": a block is at least 1, a group at least 0");
  }

  int64_t columns() const { return weight_->columns(); }
  const float* bias() const { return weight_->bias(); }

  // Geometry of the input, or Error where input and weight do not belong together.
  Geometry check(const Tensor& codes, const Tensor& exponents) const {
    BQC_REQUIRE(codes.rank() >= 1 && codes.last() >= 1, "input ", codes.shape(), " has no columns");
    const Geometry g = make_geometry(codes.last(), block_, group_);
    BQC_REQUIRE(g.block == g.span || g.block % 16 == 0, "blocks of ", block_, " are not a multiple of 16");
    weight_->check(codes, g);
    check_pair(codes, exponents, g, "input");
    return g;
  }

  // For every row calls epilogue(row, products without bias).
  template <class Epilogue>
  void run(const Call& call, const Tensor& codes, const Tensor& exponents, const Geometry& g,
           const Epilogue& epilogue) const {
    const int64_t rows = rows_of(codes);
    BQC_REQUIRE(rows <= kMaxRows, "input ", codes.shape(), " has more than ", kMaxRows, " rows");
    run_product(call, Product{weight_.get(), &codes, &exponents, &g}, rows, epilogue);
  }

 private:
  struct Product {
    const LinearWeight* weight;
    const Tensor *codes, *exponents;
    const Geometry* g;

    int64_t strips() const { return weight->strips(); }
    int64_t panel_rows() const { return weight->panel_rows(*g); }
    int64_t product_rows() const { return cached_rows(strips()); }
    int64_t tile_rows() const { return weight->tile_rows(); }
    int64_t panel_bytes(int64_t rows) const { return weight->panel_bytes(*g, rows); }
    void prepare(int64_t row, int64_t rows, void* panel) const {
      weight->prepare(*g, codes->as<int8_t>() + row * g->length, exponents->as<int8_t>() + row * g->count,
                      rows, panel);
    }
    void multiply(const void* panel, int64_t rows, int64_t first, int64_t last, float* out) const {
      weight->multiply(*g, panel, rows, first, last, out);
    }
  };

  std::unique_ptr<const LinearWeight> weight_;
  int64_t block_, group_;
};

// Output columns in shape inference: the length of the bias.
Dim bias_columns(const Inference& node) {
  const std::vector<Dim> bias = node.input(4);
  return bias.size() == 1 ? bias[0] : Dim();
}

using Weight = std::unique_ptr<const LinearWeight>;

class PlainLinear : public Kernel {
 public:
  PlainLinear(const Node& node, const KernelSet* kernels, Weight weight) : linear_(node, std::move(weight)) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor codes = call.input(0), exponents = call.input(1);
    const Geometry g = linear_.check(codes, exponents);
    const int64_t columns = linear_.columns();
    float* y = call.output<float>(0, with_last(codes.dims, columns));
    linear_.run(call, codes, exponents, g, [&](int64_t row, const float* products) {
      set->rows->add_bias(products, linear_.bias(), columns, y + row * columns);
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> codes = node.input(0);
    if (!codes.empty()) node.output(0, Type::f32, with_last(codes, bias_columns(node)));
  }

 private:
  Linear linear_;
};

// The forms that end in BlockQuantize: finish(row, y) may change y [columns] before that.
class QuantizedLinear : public Kernel {
 public:
  QuantizedLinear(const Node& node, const KernelSet* kernels, Weight weight)
      : linear_(node, std::move(weight)),
        format_(Format::from(node, "out_")),
        out_(make_geometry(linear_.columns(), format_.block, format_.group)) {
    set = kernels;
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> codes = node.input(0);
    if (!codes.empty()) infer_quantized(node, codes, bias_columns(node), "out_");
  }

 protected:
  template <class Finish>
  void run(const Call& call, const Finish& finish) const {
    const Tensor codes = call.input(0), exponents = call.input(1);
    const Geometry g = linear_.check(codes, exponents);
    const int64_t columns = linear_.columns();
    int8_t* out_codes = call.output<int8_t>(0, with_last(codes.dims, columns));
    int8_t* out_exponents = call.output<int8_t>(1, with_last(codes.dims, out_.count));
    linear_.run(call, codes, exponents, g, [&](int64_t row, const float* products) {
      float* y = scratch<float>(Slot::row, columns);
      set->rows->add_bias(products, linear_.bias(), columns, y);
      set->rows->quantize(finish(row, y), &out_, format_.bits, out_codes + row * columns,
                          out_exponents + row * out_.count);
    });
  }

  Linear linear_;
  Format format_;
  Geometry out_;
};

class LinearQuantize : public QuantizedLinear {
 public:
  using QuantizedLinear::QuantizedLinear;

  void compute(const Call& call) const override {
    run(call, [](int64_t, const float* y) { return y; });
  }
};

class LinearGelu : public QuantizedLinear {
 public:
  LinearGelu(const Node& node, const KernelSet* kernels, Weight weight)
      : QuantizedLinear(node, kernels, std::move(weight)),
        approximate_(node.integer("approximate", 0) != 0) {}

  void compute(const Call& call) const override {
    run(call, [&](int64_t, const float* y) {
      float* z = scratch<float>(Slot::row2, linear_.columns());
      set->rows->gelu(y, linear_.columns(), approximate_, z);
      return z;
    });
  }

 private:
  int approximate_;
};

class LinearRelu : public QuantizedLinear {
 public:
  using QuantizedLinear::QuantizedLinear;

  void compute(const Call& call) const override {
    const int64_t columns = linear_.columns();
    run(call, [columns](int64_t, float* y) {
      for (int64_t i = 0; i < columns; ++i) y[i] = y[i] > 0.0f ? y[i] : 0.0f;
      return y;
    });
  }
};

class LinearAddNorm : public QuantizedLinear {
 public:
  LinearAddNorm(const Node& node, const KernelSet* kernels, Weight weight)
      : QuantizedLinear(node, kernels, std::move(weight)), end_(node, linear_.columns(), 5) {}

  void compute(const Call& call) const override {
    const AddNorm::Residual residual = end_.residual(call, call.input(0));
    run(call, [&](int64_t row, float* y) { return end_.apply(set, residual, row, y); });
  }

 private:
  AddNorm end_;
};

class LinearQuantizeValues : public Kernel {
 public:
  LinearQuantizeValues(const Node& node, const KernelSet* kernels, Weight weight)
      : linear_(node, std::move(weight)), values_(node, "out_") {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor codes = call.input(0), exponents = call.input(1), mask = call.input(5);
    const Geometry g = linear_.check(codes, exponents);
    const int64_t columns = linear_.columns();
    const std::vector<int64_t> dims = with_last(codes.dims, columns);
    values_.check(dims, mask);
    const int64_t sizes[] = {rows_of(codes), columns};
    float* y = scratch<float>(Slot::values, product_of(sizes, 2));
    linear_.run(call, codes, exponents, g, [&](int64_t row, const float* products) {
      set->rows->add_bias(products, linear_.bias(), columns, y + row * columns);
    });
    values_.run(call, set, y, dims, mask);
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> codes = node.input(0);
    if (codes.size() == 3) ValuesQuantizer::infer(node, codes, codes[0], bias_columns(node), "out_");
  }

 private:
  Linear linear_;
  ValuesQuantizer values_;
};

template <class Form, class AnyWeight>
std::unique_ptr<Kernel> make(const Node& node, const KernelSet* set) {
  return std::make_unique<Form>(node, set, std::make_unique<AnyWeight>(node, set));
}

struct Names {
  const char *plain, *quantize, *quantize_values, *gelu, *relu, *add_norm;
};

// float32 or float16.
constexpr Type kReal = Type::undefined;

// All forms with weights of a class, whose scales are of this type.
template <class AnyWeight>
std::vector<OpSpec> forms(const Names& names, Type scales) {
  const std::vector<Type> five = {Type::i8, Type::i8, Type::u8, scales, kReal};
  const auto with = [&](std::vector<Type> more) {
    more.insert(more.begin(), five.begin(), five.end());
    return more;
  };
  const std::vector<Type> pair = {Type::i8, Type::i8};
  return {
      {names.plain, five, {Type::f32}, make<PlainLinear, AnyWeight>, PlainLinear::infer},
      {names.quantize, five, pair, make<LinearQuantize, AnyWeight>, QuantizedLinear::infer},
      {names.quantize_values, with({Type::i64}), pair, make<LinearQuantizeValues, AnyWeight>,
       LinearQuantizeValues::infer},
      {names.gelu, five, pair, make<LinearGelu, AnyWeight>, QuantizedLinear::infer},
      {names.relu, five, pair, make<LinearRelu, AnyWeight>, QuantizedLinear::infer},
      {names.add_norm, with({Type::i8, Type::i8, kReal, kReal}), pair, make<LinearAddNorm, AnyWeight>,
       QuantizedLinear::infer},
  };
}

}  // namespace

std::vector<OpSpec> linear_ops() {
  return forms<BlockWeight>({"BlockLinear", "BlockLinearQuantize", "BlockLinearQuantizeValues",
                             "BlockLinearGelu", "BlockLinearRelu", "BlockLinearAddNorm"},
                            Type::i8);
}

std::vector<OpSpec> sign_linear_ops() {
  return forms<SignWeight>({"SignLinear", "SignLinearQuantize", "SignLinearQuantizeValues", "SignLinearGelu",
                            "SignLinearRelu", "SignLinearAddNorm"},
                           kReal);
}

std::vector<OpSpec> sparse_linear_ops() {
  return forms<SparseWeight>({"SparseLinear", "SparseLinearQuantize", "SparseLinearQuantizeValues",
                              "SparseLinearGelu", "SparseLinearRelu", "SparseLinearAddNorm"},
                             Type::f32);
}

}  // namespace bqc
