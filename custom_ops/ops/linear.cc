// BlockLinear and its fused forms: y = x W^T + bias on blocks, then whatever follows while the rows are in
// cache.
#include <algorithm>

#include "ops/values.h"

namespace bqc {
namespace {

using ort::Type;

// The five inputs that all forms share, checked once; weights are read where the file put them.
class Linear {
 public:
  Linear(const Node& node, const KernelSet* set) : set_(set) {
    node.expect("layout", "n16k4");
    bits_ = checked_weight_bits(node.integer("bits", 8), "bits");
    block_ = node.integer("block", 64);
    group_ = node.integer("group", 0);
    const Tensor weight = node.constant(2, "weight", Type::u8, 4);
    const Tensor exponents = node.constant(3, "weight_exponents", Type::i8, 2);
    const Tensor bias = node.constant(4, "bias", Type::f32, 1);
    columns_ = bias.count;
    strips_ = ceil_div(columns_, 16);
    BQC_REQUIRE(columns_ >= 1, "bias is empty");
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
    BQC_REQUIRE(block_ >= 1 && group_ >= 0, "attributes block ", block_, " and group ", group_,
                ": a block is at least 1, a group at least 0");
    weight_ = weight.as<uint8_t>();
    exponents_ = exponents.as<int8_t>();
    bias_ = bias.as<float>();
  }

  int64_t columns() const { return columns_; }
  const float* bias() const { return bias_; }

  // Geometry of the input, or Error where input and weight do not belong together.
  Geometry check(const Tensor& codes, const Tensor& exponents) const {
    BQC_REQUIRE(codes.rank() >= 1 && codes.last() >= 1, "input ", codes.shape(), " has no columns");
    const Geometry g = make_geometry(codes.last(), block_, group_);
    BQC_REQUIRE(g.block == g.span || g.block % 16 == 0, "blocks of ", block_, " are not a multiple of 16");
    BQC_REQUIRE(g.groups * round_up(g.span, 16) == padded_inputs_ && g.count == blocks_, "input ",
                codes.shape(), " in ", g.count, " blocks does not fit a weight of ", padded_inputs_,
                " padded inputs in ", blocks_, " blocks");
    check_pair(codes, exponents, g, "input");
    return g;
  }

  // For every row calls epilogue(row, products without bias).
  template <class Epilogue>
  void run(const Call& call, const Tensor& codes, const Tensor& exponents, const Geometry& g,
           const Epilogue& epilogue) const {
    const int64_t rows = rows_of(codes), threads = likely_threads();
    if (rows == 0) return;
    BQC_REQUIRE(rows <= kMaxRows, "input ", codes.shape(), " has more than ", kMaxRows, " rows");
    if (threads > 1 && rows < kRowsPerThread * threads) {
      by_columns(call, codes, exponents, g, rows, epilogue);
    } else {
      by_rows(call, codes, exponents, g, rows, epilogue);
    }
  }

 private:
  static constexpr int64_t kRowsPerThread = 24, kPanelRows = 48, kPanelFloats = 128 * 1024,
                           kMaxRows = int64_t{1} << 31;

  void prepare(const Tensor& codes, const Tensor& exponents, const Geometry& g, int64_t row, int64_t rows,
               void* panel) const {
    set_->gemm->prepare(&g, bits_, codes.as<int8_t>() + row * g.length, g.length,
                        exponents.as<int8_t>() + row * g.count, g.count, rows, panel);
  }

  void multiply(const Geometry& g, const void* panel, int64_t rows, int64_t first, int64_t last,
                float* out) const {
    set_->gemm->multiply(&g, bits_, panel, rows, weight_, exponents_, strips_, first, last, out,
                         strips_ * 16);
  }

  // A task takes some rows through everything; its products stay in its own cache.
  template <class Epilogue>
  void by_rows(const Call& call, const Tensor& codes, const Tensor& exponents, const Geometry& g,
               int64_t rows, const Epilogue& epilogue) const {
    const int64_t threads = likely_threads();
    const int64_t fits = std::clamp<int64_t>(kPanelFloats / (strips_ * 16), 12, kPanelRows);
    int64_t panels = ceil_div(rows, fits);
    if (panels < 8 * threads) panels = std::min(round_up(panels, threads), rows);
    call.parallel(panels, [&](int64_t i) {
      const int64_t first = rows * i / panels, some = rows * (i + 1) / panels - first;
      void* panel = scratch<char>(Slot::panel, set_->gemm->panel_bytes(&g, some));
      float* products = scratch<float>(Slot::tile, some * strips_ * 16);
      prepare(codes, exponents, g, first, some, panel);
      multiply(g, panel, some, 0, strips_, products);
      for (int64_t r = 0; r < some; ++r) epilogue(first + r, products + r * strips_ * 16);
    });
  }

  // Few rows: tasks share out the columns, so that the weights are read once in all; then the rows.
  template <class Epilogue>
  void by_columns(const Call& call, const Tensor& codes, const Tensor& exponents, const Geometry& g,
                  int64_t rows, const Epilogue& epilogue) const {
    const int64_t threads = likely_threads(), panels = ceil_div(rows, kPanelRows);
    const auto first_row = [&](int64_t i) { return rows * i / panels; };
    const int64_t panel_size = round_up(set_->gemm->panel_bytes(&g, ceil_div(rows, panels)), 64);
    char* prepared = scratch<char>(Slot::shared, panels * panel_size);
    float* products = scratch<float>(Slot::shared2, rows * strips_ * 16);
    for (int64_t i = 0; i < panels; ++i) {
      prepare(codes, exponents, g, first_row(i), first_row(i + 1) - first_row(i), prepared + i * panel_size);
    }
    const int64_t pairs = ceil_div(strips_, 2), chunks = std::min(pairs, 4 * threads);
    call.parallel(panels * chunks, [&](int64_t task) {
      const int64_t i = task % panels, chunk = task / panels;
      const int64_t from = 2 * (pairs * chunk / chunks),
                    to = std::min(strips_, 2 * (pairs * (chunk + 1) / chunks));
      multiply(g, prepared + i * panel_size, first_row(i + 1) - first_row(i), from, to,
               products + first_row(i) * strips_ * 16);
    });
    parallel_ranges(call, rows, std::max<int64_t>(1, 4096 / columns_), [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) epilogue(r, products + r * strips_ * 16);
    });
  }

  const KernelSet* set_;
  int bits_;
  int64_t block_, group_, columns_, strips_, padded_inputs_, blocks_;
  const uint8_t* weight_;
  const int8_t* exponents_;
  const float* bias_;
};

// Output columns in shape inference: the length of the bias.
Dim bias_columns(const Inference& node) {
  const std::vector<Dim> bias = node.input(4);
  return bias.size() == 1 ? bias[0] : Dim();
}

class BlockLinear : public Kernel {
 public:
  BlockLinear(const Node& node, const KernelSet* kernels) : linear_(node, kernels) { set = kernels; }

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
  QuantizedLinear(const Node& node, const KernelSet* kernels)
      : linear_(node, kernels),
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

class BlockLinearQuantize : public QuantizedLinear {
 public:
  using QuantizedLinear::QuantizedLinear;

  void compute(const Call& call) const override {
    run(call, [](int64_t, const float* y) { return y; });
  }
};

class BlockLinearGelu : public QuantizedLinear {
 public:
  BlockLinearGelu(const Node& node, const KernelSet* kernels)
      : QuantizedLinear(node, kernels), approximate_(node.integer("approximate", 0) != 0) {}

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

class BlockLinearAddNorm : public QuantizedLinear {
 public:
  BlockLinearAddNorm(const Node& node, const KernelSet* kernels)
      : QuantizedLinear(node, kernels),
        residual_(make_geometry(linear_.columns(), node.integer("residual_block", 64),
                                node.integer("residual_group", 0))),
        epsilon_(node.real("epsilon", 1e-12f)) {
    const Tensor gamma = node.constant(7, "gamma", Type::f32, 1),
                 beta = node.constant(8, "beta", Type::f32, 1);
    BQC_REQUIRE(gamma.count == linear_.columns() && beta.count == linear_.columns(), "gamma ", gamma.shape(),
                " and beta ", beta.shape(), " should be [", linear_.columns(), "]");
    BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
    gamma_ = gamma.as<float>();
    beta_ = beta.as<float>();
  }

  void compute(const Call& call) const override {
    const Tensor input = call.input(0), codes = call.input(5), exponents = call.input(6);
    check_pair(codes, exponents, residual_, "residual");
    BQC_REQUIRE(rows_of(codes) == rows_of(input), "residual ", codes.shape(), " and input ", input.shape(),
                " should have the same rows");
    const int64_t columns = linear_.columns();
    run(call, [&](int64_t row, float* y) {
      set->rows->add_dequantized(codes.as<int8_t>() + row * columns,
                                 exponents.as<int8_t>() + row * residual_.count, &residual_, y);
      float* z = scratch<float>(Slot::row2, columns);
      set->rows->layer_norm(y, gamma_, beta_, epsilon_, columns, scratch<int32_t>(Slot::row3, columns), z);
      return z;
    });
  }

 private:
  Geometry residual_;
  float epsilon_;
  const float *gamma_, *beta_;
};

class BlockLinearQuantizeValues : public Kernel {
 public:
  BlockLinearQuantizeValues(const Node& node, const KernelSet* kernels)
      : linear_(node, kernels), values_(node, "out_") {
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
    if (codes.size() == 3) ValuesQuantizer::infer(node, codes, bias_columns(node), "out_");
  }

 private:
  Linear linear_;
  ValuesQuantizer values_;
};

}  // namespace

std::vector<OpSpec> linear_ops() {
  const std::vector<Type> five = {Type::i8, Type::i8, Type::u8, Type::i8, Type::f32};
  const auto with = [&](std::vector<Type> more) {
    more.insert(more.begin(), five.begin(), five.end());
    return more;
  };
  const std::vector<Type> pair = {Type::i8, Type::i8};
  return {
      {"BlockLinear", five, {Type::f32}, make_kernel<BlockLinear>, BlockLinear::infer},
      {"BlockLinearQuantize", five, pair, make_kernel<BlockLinearQuantize>, QuantizedLinear::infer},
      {"BlockLinearQuantizeValues", with({Type::i64}), pair, make_kernel<BlockLinearQuantizeValues>,
       BlockLinearQuantizeValues::infer},
      {"BlockLinearGelu", five, pair, make_kernel<BlockLinearGelu>, QuantizedLinear::infer},
      {"BlockLinearAddNorm", with({Type::i8, Type::i8, Type::f32, Type::f32}), pair,
       make_kernel<BlockLinearAddNorm>, QuantizedLinear::infer},
  };
}

}  // namespace bqc
