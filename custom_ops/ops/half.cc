// HalfLinear, IndexLinear and their fused forms, HalfRound and lookups: weights of fp16 numbers, as they are
// or as indices.
#include <vector>

#include "kernels/dispatch.h"
#include "ops/add_norm.h"
#include "ops/gather.h"
#include "ops/product.h"

namespace bqc {
namespace {

using ort::Type;

// fp16 numbers, in one input of a node.
struct Halves {
  static constexpr Type kType = Type::f16;
  static constexpr size_t kInputs = 1;
  using Element = uint16_t;

  Halves(const Node&, size_t) {}

  void widen(const KernelSet* set, const uint16_t* elements, int64_t n, float* y) const {
    set->half->widen(elements, n, y);
  }
  HalfTiles tiles(const Tensor& t) const { return {t.as<uint16_t>(), nullptr, nullptr, t.dims[1]}; }
};

// Indices of fp16 numbers, and the input after them, a table of the numbers.
struct Indices {
  static constexpr Type kType = Type::u8;
  static constexpr size_t kInputs = 2;
  using Element = uint8_t;

  Indices(const Node& node, size_t index) : numbers(256) {
    const Tensor table = node.constant(index + 1, "table of numbers", Type::f16, 1);
    BQC_REQUIRE(table.count == 256, "table of numbers ", table.shape(), " should be [256]");
    portable::kHalf.widen(table.as<uint16_t>(), 256, numbers.data());
  }

  void widen(const KernelSet*, const uint8_t* elements, int64_t n, float* y) const {
    for (int64_t i = 0; i < n; ++i) y[i] = numbers[elements[i]];
  }
  HalfTiles tiles(const Tensor& t) const { return {nullptr, t.as<uint8_t>(), numbers.data(), t.dims[1]}; }

  std::vector<float> numbers;
};

// A weight or table in strips n16 of so many rows.
template <class Elements>
Tensor strips_of(const Node& node, const char* name, size_t index, int64_t rows) {
  const Tensor tiles = node.constant(index, name, Elements::kType, 3);
  BQC_REQUIRE(rows >= 1 && tiles.dims[0] == (rows - 1) / 16 + 1 && tiles.dims[1] >= 1 && tiles.dims[2] == 16,
              name, " ", tiles.shape(), " should be [ceil16(rows) / 16, columns, 16] for ", rows, " rows");
  BQC_REQUIRE(tiles.dims[1] <= kMaxLength, name, " ", tiles.shape(), " has rows longer than ", kMaxLength);
  return tiles;
}

// What the linears share: x W^T of an input x in float32, whose rows a form ends in its way.
template <class Elements>
class Linear : public Kernel {
 public:
  Linear(const Node& node, const KernelSet* kernels)
      : elements_(node, 1), bias_(node, 1 + Elements::kInputs, "bias") {
    set = kernels;
    const HalfChoice choice = choose_half(*kernels);
    products_ = choice.products;
    by = choice.products->by;
    reason = choice.reason;
    node.expect("layout", "n16");
    BQC_REQUIRE(bias_.count() >= 1, "bias is empty");
    const Tensor tiles = strips_of<Elements>(node, "weight", 1, bias_.count());
    strips_ = tiles.dims[0];
    weight_ = elements_.tiles(tiles);
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0), bias = node.input(1 + Elements::kInputs);
    if (!x.empty()) node.output(0, Type::f32, with_last(x, bias.size() == 1 ? bias[0] : Dim()));
  }

 protected:
  static constexpr size_t kNextInput = 2 + Elements::kInputs;  // behind the bias

  int64_t columns() const { return bias_.count(); }

  // Calls end(row, products without bias, y [columns]) for every row.
  template <class End>
  void run(const Call& call, const End& end) const {
    const Tensor x = call.input(0);
    BQC_REQUIRE(x.rank() >= 1 && x.last() == weight_.inputs, "input ", x.shape(),
                " should end in the inputs of the weight, ", weight_.inputs);
    const int64_t rows = rows_of(x);
    BQC_REQUIRE(rows <= kMaxRows, "input ", x.shape(), " has more than ", kMaxRows, " rows");
    float* y = call.output<float>(0, with_last(x.dims, columns()));
    run_product(call, Product{products_, &weight_, strips_, x.as<float>()}, rows,
                [&](int64_t row, const float* products) { end(row, products, y + row * columns()); });
  }

  void add_bias(const float* products, float* y) const {
    set->rows->add_bias(products, bias_.data(), columns(), y);
  }

  // A row of products with bias, in scratch memory.
  float* biased(const float* products) const {
    float* y = scratch<float>(Slot::row, columns());
    add_bias(products, y);
    return y;
  }

 private:
  struct Product {
    const HalfProducts* by;
    const HalfTiles* weight;
    int64_t count;
    const float* x;

    int64_t strips() const { return count; }
    // A weight is decoded once a panel, so that one should have many rows, while a piece of it stays in
    // cache.
    int64_t panel_rows() const { return kHalfPanelRows; }
    int64_t product_rows() const { return kHalfPanelRows; }
    int64_t tile_rows() const { return 1; }
    int64_t panel_bytes(int64_t rows) const { return rows * weight->inputs * 4; }
    void prepare(int64_t row, int64_t rows, void* panel) const {
      by->prepare(x + row * weight->inputs, weight->inputs, rows, static_cast<float*>(panel));
    }
    void multiply(const void* panel, int64_t rows, int64_t first, int64_t last, float* out) const {
      by->multiply(static_cast<const float*>(panel), rows, weight, first, last, out, count * 16);
    }
  };

  Elements elements_;
  Numbers bias_;
  const HalfProducts* products_;
  int64_t strips_;
  HalfTiles weight_;
};

template <class Elements>
class PlainLinear : public Linear<Elements> {
 public:
  using Linear<Elements>::Linear;

  void compute(const Call& call) const override {
    this->run(call, [&](int64_t, const float* products, float* y) { this->add_bias(products, y); });
  }
};

template <class Elements>
class LinearGelu : public Linear<Elements> {
 public:
  LinearGelu(const Node& node, const KernelSet* kernels)
      : Linear<Elements>(node, kernels), approximate_(node.integer("approximate", 0) != 0) {}

  void compute(const Call& call) const override {
    this->run(call, [&](int64_t, const float* products, float* y) {
      this->set->rows->gelu(this->biased(products), this->columns(), approximate_, y);
    });
  }

 private:
  int approximate_;
};

template <class Elements>
class LinearRelu : public Linear<Elements> {
 public:
  using Linear<Elements>::Linear;

  void compute(const Call& call) const override {
    this->run(call, [&](int64_t, const float* products, float* y) {
      this->add_bias(products, y);
      for (int64_t i = 0; i < this->columns(); ++i) y[i] = y[i] > 0.0f ? y[i] : 0.0f;
    });
  }
};

template <class Elements>
class LinearAddNorm : public Linear<Elements> {
 public:
  LinearAddNorm(const Node& node, const KernelSet* kernels)
      : Linear<Elements>(node, kernels), norm_(node, this->columns(), this->kNextInput + 1) {}

  void compute(const Call& call) const override {
    const Tensor x = call.input(0), residual = call.input(this->kNextInput);
    BQC_REQUIRE(x.rank() == 0 || residual.dims == with_last(x.dims, this->columns()), "residual ",
                residual.shape(), " should have the shape of input ", x.shape(), " but for its ",
                this->columns(), " columns");
    this->run(call, [&](int64_t row, const float* products, float* y) {
      const int64_t columns = this->columns();
      float* sum = scratch<float>(Slot::row2, columns);
      this->set->rows->add_bias(this->biased(products), residual.as<float>() + row * columns, columns, sum);
      norm_.apply(this->set, sum, y);
    });
  }

 private:
  Norm norm_;
};

// A table as it is.
template <class Elements>
class Rows {
 public:
  static constexpr const char* kLayout = "row";

  Rows(const Node& node, const char* name, size_t index, const std::string&, int64_t columns)
      : name_(name), columns_(columns), elements_(node, index) {
    const Tensor rows = node.constant(index, name, Elements::kType, 2);
    BQC_REQUIRE(columns >= 1 && columns <= kMaxLength && rows.dims[1] == columns, name, " ", rows.shape(),
                " should have rows of ", columns, ", between 1 and ", kMaxLength);
    count_ = rows.dims[0];
    data_ = rows.as<typename Elements::Element>();
  }

  void check(const Tensor& ids) const { check_ids(ids, count_, name_); }

  void read(const KernelSet* set, int64_t id, float* y) const {
    elements_.widen(set, data_ + (id < 0 ? id + count_ : id) * columns_, columns_, y);
  }

 private:
  const char* name_;
  int64_t columns_, count_;
  Elements elements_;
  const typename Elements::Element* data_;
};

// A table in strips, which a linear reads as its weight: a row is one element of every 16.
template <class Elements>
class Lanes {
 public:
  static constexpr const char* kLayout = "n16";
  using Element = typename Elements::Element;

  Lanes(const Node& node, const char* name, size_t index, const std::string&, int64_t columns)
      : name_(name), columns_(columns), count_(node.integer("rows", 768)), elements_(node, index) {
    const Tensor tiles = strips_of<Elements>(node, name, index, count_);
    BQC_REQUIRE(tiles.dims[1] == columns, name, " ", tiles.shape(), " does not fit attribute columns ",
                columns);
    data_ = tiles.as<Element>();
  }

  void check(const Tensor& ids) const { check_ids(ids, count_, name_); }

  void read(const KernelSet* set, int64_t id, float* y) const {
    const int64_t row = id < 0 ? id + count_ : id;
    const Element* lane = data_ + row / 16 * columns_ * 16 + row % 16;
    Element* elements = scratch<Element>(Slot::codes, columns_);
    for (int64_t k = 0; k < columns_; ++k) elements[k] = lane[k * 16];
    elements_.widen(set, elements, columns_, y);
  }

 private:
  const char* name_;
  int64_t columns_, count_;
  Elements elements_;
  const Element* data_;
};

class Round : public Kernel {
 public:
  Round(const Node&, const KernelSet* kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor x = call.input(0);
    float* y = call.output<float>(0, x.dims);
    parallel_ranges(call, x.count, 16384, [&](int64_t first, int64_t last) {
      set->half->round(x.as<float>() + first, last - first, y + first);
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> x = node.input(0);
    if (!x.empty()) node.output(0, Type::f32, x);
  }
};

// The inputs from the first on, those of the elements, and those behind them.
template <class Elements>
std::vector<Type> around(Type first, const std::vector<Type>& last) {
  std::vector<Type> all(1, first);
  all.push_back(Elements::kType);
  if (Elements::kInputs == 2) all.push_back(Type::f16);
  all.insert(all.end(), last.begin(), last.end());
  return all;
}

template <class Kind>
OpSpec spec(const char* name, const std::vector<Type>& inputs) {
  return {name, inputs, {Type::f32}, make_kernel<Kind>, Kind::infer};
}

struct Names {
  const char *linear, *gelu, *relu, *add_norm, *gather, *gather_tiles;
};

// float32 or float16.
constexpr Type kReal = Type::undefined;

template <class Elements>
void add_family(const Names& names, std::vector<OpSpec>* all) {
  const std::vector<Type> product = around<Elements>(Type::f32, {kReal});
  all->push_back(spec<PlainLinear<Elements>>(names.linear, product));
  all->push_back(spec<LinearGelu<Elements>>(names.gelu, product));
  all->push_back(spec<LinearRelu<Elements>>(names.relu, product));
  all->push_back(spec<LinearAddNorm<Elements>>(
      names.add_norm, around<Elements>(Type::f32, {kReal, Type::f32, kReal, kReal})));
  all->push_back(spec<Gather<Rows<Elements>>>(names.gather, around<Elements>(Type::i64, {})));
  all->push_back(spec<Gather<Lanes<Elements>>>(names.gather_tiles, around<Elements>(Type::i64, {})));
}

}  // namespace

std::vector<OpSpec> half_ops() {
  std::vector<OpSpec> all = {spec<Round>("HalfRound", {Type::f32})};
  add_family<Halves>({"HalfLinear", "HalfLinearGelu", "HalfLinearRelu", "HalfLinearAddNorm", "HalfGather",
                      "HalfGatherTiles"},
                     &all);
  add_family<Indices>({"IndexLinear", "IndexLinearGelu", "IndexLinearRelu", "IndexLinearAddNorm",
                       "IndexGather", "IndexGatherTiles"},
                      &all);
  return all;
}

}  // namespace bqc
