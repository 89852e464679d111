// BlockScores, MaskedSoftmax, BlockContext, and BlockAttention, which is all of them on one head at a time.
#include <algorithm>
#include <cstring>

#include "ops/values.h"

namespace bqc {
namespace {

using ort::Type;

constexpr int64_t kQueryRows = 24;  // queries worked off together, their scores in cache

struct HeadAttributes {
  int64_t heads, block;

  explicit HeadAttributes(const Node& node)
      : heads(node.integer("heads", 12)), block(node.integer("block", 64)) {
    BQC_REQUIRE(heads >= 1 && block >= 1, "attributes heads ", heads, " and block ", block,
                " must be at least 1");
  }

  // Blocks of one head of `columns`.
  Geometry head(int64_t columns) const {
    BQC_REQUIRE(columns >= 1 && columns % heads == 0, columns, " columns are not a whole number of ", heads,
                " heads");
    return make_geometry(columns / heads, block, 0);
  }
};

// [B, S, H] as heads.
struct Sizes {
  int64_t batch, tokens, columns, heads;
  Geometry head;

  Sizes(const Tensor& x, const HeadAttributes& a, const char* what)
      : batch(0), tokens(0), columns(0), heads(a.heads), head{} {
    BQC_REQUIRE(x.rank() == 3, what, " ", x.shape(), " should be [batch, sequence, hidden]");
    batch = x.dims[0];
    tokens = x.dims[1];
    columns = x.dims[2];
    head = a.head(columns);
    BQC_REQUIRE(tokens <= kMaxSum && head.span <= kMaxSum, what, " ", x.shape(), " in ", heads,
                " heads: sequence and head are at most ", kMaxSum);
    BQC_REQUIRE(head.block == head.span || head.block % 16 == 0, "blocks of ", a.block,
                " are not a multiple of 16");
  }
  int64_t exponents() const { return heads * head.count; }
  void check(const Tensor& codes, const Tensor& e, const char* what) const {
    BQC_REQUIRE(codes.dims == std::vector<int64_t>({batch, tokens, columns}) &&
                    e.dims == std::vector<int64_t>({batch, tokens, exponents()}),
                what, " codes ", codes.shape(), " and exponents ", e.shape(), " should be [", batch, ", ",
                tokens, ", ", columns, "] and [", batch, ", ", tokens, ", ", exponents(), "]");
  }
  void check_values(const Tensor& codes, const Tensor& e) const {
    BQC_REQUIRE(codes.dims == std::vector<int64_t>({batch, tokens, columns}) &&
                    e.dims == std::vector<int64_t>({batch, exponents()}),
                "value codes ", codes.shape(), " and exponents ", e.shape(), " should be [", batch, ", ",
                tokens, ", ", columns, "] and [", batch, ", ", exponents(), "]");
  }
};

// Keys of one head, packed for the products with queries.
class PackedKeys {
 public:
  PackedKeys(const KernelSet* set, const Sizes& s, const Tensor& key, const Tensor& exponents, int64_t b,
             int64_t h)
      : set_(set), s_(s), strips_(ceil_div(s.tokens, 16)) {
    uint8_t* tiles = scratch<uint8_t>(Slot::keys, strips_ * 16 * round_up(s.head.span, 16));
    set->gemm->pack_keys(key.as<int8_t>() + b * s.tokens * s.columns + h * s.head.span, s.columns, s.tokens,
                         &s.head, tiles);
    int8_t* e = scratch<int8_t>(Slot::codes, s.head.count * strips_ * 16);
    const int8_t* from = exponents.as<int8_t>() + b * s.tokens * s.exponents() + h * s.head.count;
    for (int64_t i = 0; i < s.head.count; ++i) {
      int8_t* row = e + i * strips_ * 16;
      for (int64_t t = 0; t < s.tokens; ++t) row[t] = from[t * s.exponents() + i];
      std::memset(row + s.tokens, 0, static_cast<size_t>(strips_ * 16 - s.tokens));
    }
    tiles_ = tiles;
    exponents_ = e;
  }

  int64_t stride() const { return strips_ * 16; }

  // Products of queries [first, first + rows) of the head with all keys.
  void multiply(const Tensor& q, const Tensor& exponents, int64_t b, int64_t h, int64_t first, int64_t rows,
                float* out) const {
    void* panel = scratch<char>(Slot::panel, set_->gemm->panel_bytes(&s_.head, rows));
    const int64_t row = b * s_.tokens + first;
    set_->gemm->prepare(&s_.head, 8, q.as<int8_t>() + row * s_.columns + h * s_.head.span, s_.columns,
                        exponents.as<int8_t>() + row * s_.exponents() + h * s_.head.count, s_.exponents(),
                        rows, panel);
    set_->gemm->multiply(&s_.head, 8, panel, rows, tiles_, exponents_, strips_, 0, strips_, out, stride());
  }

 private:
  const KernelSet* set_;
  const Sizes& s_;
  int64_t strips_;
  const uint8_t* tiles_;
  const int8_t* exponents_;
};

// Values of one head, packed for the products with softmax codes.
class PackedValues {
 public:
  PackedValues(const KernelSet* set, const Sizes& s, const Tensor& values, const Tensor& exponents, int64_t b,
               int64_t h)
      : set_(set),
        s_(s),
        strips_(ceil_div(s.head.span, 16)),
        exponents_(exponents.as<int8_t>() + (b * s.heads + h) * s.head.count) {
    int8_t* tiles = scratch<int8_t>(Slot::values, strips_ * 16 * round_up(s.tokens, 4));
    set->gemm->pack_values(values.as<int8_t>() + b * s.tokens * s.columns + h * s.head.span, s.columns,
                           s.tokens, s.head.span, tiles);
    tiles_ = tiles;
  }

  // row(i, context [span]) for each row of codes, whose stride is a multiple of 4 with zeros after the last
  // key.
  template <class Row>
  void mix(const uint8_t* codes, int64_t stride, int64_t rows, const Row& row) const {
    const int64_t wide = strips_ * 16;
    int32_t* dot = scratch<int32_t>(Slot::row2, rows * wide);
    float* y = scratch<float>(Slot::row3, wide);
    set_->gemm->mix(codes, stride, rows, tiles_, s_.tokens, strips_, dot, wide);
    for (int64_t r = 0; r < rows; ++r) {
      set_->rows->context(dot + r * wide, exponents_, &s_.head,
                          set_->rows->sum_codes(codes + r * stride, s_.tokens), y);
      row(r, y);
    }
  }

 private:
  const KernelSet* set_;
  const Sizes& s_;
  int64_t strips_;
  const int8_t* exponents_;
  const int8_t* tiles_;
};

// Tasks are (batch, head) times chunks of queries: enough of them for all threads, few enough that packing is
// cheap.
int64_t query_chunks(const Sizes& s) {
  const int64_t heads = s.batch * s.heads;
  return std::clamp<int64_t>(ceil_div(4 * likely_threads(), std::max<int64_t>(heads, 1)), 1,
                             std::max<int64_t>(1, s.tokens / 64));
}

// body(b, h, first query, last query).
template <class Body>
void each_head(const Call& call, const Sizes& s, const Body& body) {
  if (s.tokens == 0) return;
  const int64_t chunks = query_chunks(s);
  call.parallel(s.batch * s.heads * chunks, [&](int64_t task) {
    const int64_t chunk = task % chunks, head = task / chunks;
    body(head / s.heads, head % s.heads, s.tokens * chunk / chunks, s.tokens * (chunk + 1) / chunks);
  });
}

class BlockScores : public Kernel {
 public:
  BlockScores(const Node& node, const KernelSet* kernels) : heads_(node), scale_(node.real("scale", 1.0f)) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor q = call.input(0), qe = call.input(1), key = call.input(2), ke = call.input(3);
    const Sizes s(q, heads_, "query");
    s.check(q, qe, "query");
    s.check(key, ke, "key");
    float* scores = call.output<float>(0, {s.batch, s.heads, s.tokens, s.tokens});
    each_head(call, s, [&](int64_t b, int64_t h, int64_t first, int64_t last) {
      const PackedKeys keys(set, s, key, ke, b, h);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        float* products = scratch<float>(Slot::tile, rows * keys.stride());
        keys.multiply(q, qe, b, h, at, rows, products);
        for (int64_t r = 0; r < rows; ++r) {
          set->rows->scale(products + r * keys.stride(), scale_, s.tokens,
                           scores + ((b * s.heads + h) * s.tokens + at + r) * s.tokens);
        }
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0);
    if (q.size() == 3) node.output(0, Type::f32, {q[0], Dim(node.integer("heads", 12)), q[1], q[1]});
  }

 private:
  HeadAttributes heads_;
  float scale_;
};

class MaskedSoftmax : public Kernel {
 public:
  MaskedSoftmax(const Node&, const KernelSet* kernels) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor scores = call.input(0), mask = call.input(1);
    BQC_REQUIRE(scores.rank() == 4 && mask.rank() == 2 && mask.dims[0] == scores.dims[0] &&
                    mask.last() == scores.last(),
                "mask ", mask.shape(), " should be [batch, keys] of scores ", scores.shape());
    uint8_t* codes = call.output<uint8_t>(0, scores.dims);
    if (scores.count == 0) return;
    const int64_t keys = scores.last(), rows = scores.dims[1] * scores.dims[2];
    parallel_ranges(call, scores.dims[0] * rows, 16, [&](int64_t first, int64_t last) {
      int32_t* keep = scratch<int32_t>(Slot::row, keys);
      float* x = scratch<float>(Slot::row2, keys);
      bool alive = false;
      for (int64_t r = first; r < last; ++r) {
        if (r == first || r % rows == 0)
          alive = effective_mask(mask.as<int64_t>() + r / rows * keys, keys, keep);
        std::memcpy(x, scores.as<float>() + r * keys, static_cast<size_t>(keys) * sizeof(float));
        set->rows->softmax(x, keep, alive, keys, codes + r * keys);
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> scores = node.input(0);
    if (!scores.empty()) node.output(0, Type::u8, scores);
  }
};

class BlockContext : public Kernel {
 public:
  BlockContext(const Node& node, const KernelSet* kernels) : heads_(node) { set = kernels; }

  void compute(const Call& call) const override {
    const Tensor p = call.input(0), values = call.input(1), e = call.input(2);
    const Sizes s(values, heads_, "values");
    s.check_values(values, e);
    BQC_REQUIRE(p.dims == std::vector<int64_t>({s.batch, s.heads, s.tokens, s.tokens}), "probabilities ",
                p.shape(), " should be [", s.batch, ", ", s.heads, ", ", s.tokens, ", ", s.tokens, "]");
    float* y = call.output<float>(0, values.dims);
    each_head(call, s, [&](int64_t b, int64_t h, int64_t first, int64_t last) {
      const PackedValues packed(set, s, values, e, b, h);
      const int64_t stride = round_up(s.tokens, 4);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        uint8_t* codes = scratch<uint8_t>(Slot::panel, rows * stride);
        for (int64_t r = 0; r < rows; ++r) {
          const uint8_t* from = p.as<uint8_t>() + ((b * s.heads + h) * s.tokens + at + r) * s.tokens;
          std::memcpy(codes + r * stride, from, static_cast<size_t>(s.tokens));
          std::memset(codes + r * stride + s.tokens, 0, static_cast<size_t>(stride - s.tokens));
        }
        packed.mix(codes, stride, rows, [&](int64_t r, const float* context) {
          std::memcpy(y + (b * s.tokens + at + r) * s.columns + h * s.head.span, context,
                      static_cast<size_t>(s.head.span) * sizeof(float));
        });
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> values = node.input(1);
    if (values.size() == 3) node.output(0, Type::f32, values);
  }

 private:
  HeadAttributes heads_;
};

class BlockAttention : public Kernel {
 public:
  BlockAttention(const Node& node, const KernelSet* kernels)
      : heads_(node),
        scale_(node.real("scale", 1.0f)),
        out_bits_(checked_bits(node.integer("out_bits", 8), "out_bits")) {
    set = kernels;
  }

  void compute(const Call& call) const override {
    const Tensor q = call.input(0), qe = call.input(1), key = call.input(2), ke = call.input(3);
    const Tensor values = call.input(4), ve = call.input(5), mask = call.input(6);
    const Sizes s(q, heads_, "query");
    s.check(q, qe, "query");
    s.check(key, ke, "key");
    s.check_values(values, ve);
    BQC_REQUIRE(mask.dims == std::vector<int64_t>({s.batch, s.tokens}), "mask ", mask.shape(), " should be [",
                s.batch, ", ", s.tokens, "]");
    int8_t* codes = call.output<int8_t>(0, q.dims);
    int8_t* exponents = call.output<int8_t>(1, with_last(q.dims, s.exponents()));
    each_head(call, s, [&](int64_t b, int64_t h, int64_t first, int64_t last) {
      const PackedKeys keys(set, s, key, ke, b, h);
      const PackedValues packed(set, s, values, ve, b, h);
      int32_t* keep = scratch<int32_t>(Slot::shared2, s.tokens);
      const bool alive = effective_mask(mask.as<int64_t>() + b * s.tokens, s.tokens, keep);
      const int64_t stride = round_up(s.tokens, 64);
      float* row_scores = scratch<float>(Slot::row, s.tokens);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        float* products = scratch<float>(Slot::tile, rows * keys.stride());
        keys.multiply(q, qe, b, h, at, rows, products);
        uint8_t* p = scratch<uint8_t>(Slot::shared, rows * stride);
        for (int64_t r = 0; r < rows; ++r) {
          set->rows->scale(products + r * keys.stride(), scale_, s.tokens, row_scores);
          set->rows->softmax(row_scores, keep, alive, s.tokens, p + r * stride);
          std::memset(p + r * stride + s.tokens, 0, static_cast<size_t>(stride - s.tokens));
        }
        packed.mix(p, stride, rows, [&](int64_t r, const float* context) {
          const int64_t row = b * s.tokens + at + r;
          set->rows->quantize(context, &s.head, out_bits_, codes + row * s.columns + h * s.head.span,
                              exponents + row * s.exponents() + h * s.head.count);
        });
      }
    });
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0), e = node.input(1);
    if (q.size() == 3) node.output(0, Type::i8, q);
    if (e.size() == 3) node.output(1, Type::i8, e);
  }

 private:
  HeadAttributes heads_;
  float scale_;
  int out_bits_;
};

}  // namespace

std::vector<OpSpec> attention_ops() {
  const Type i8 = Type::i8;
  return {
      {"BlockScores", {i8, i8, i8, i8}, {Type::f32}, make_kernel<BlockScores>, BlockScores::infer},
      {"MaskedSoftmax", {Type::f32, Type::i64}, {Type::u8}, make_kernel<MaskedSoftmax>, MaskedSoftmax::infer},
      {"BlockContext", {Type::u8, i8, i8}, {Type::f32}, make_kernel<BlockContext>, BlockContext::infer},
      {"BlockAttention",
       {i8, i8, i8, i8, i8, i8, Type::i64},
       {i8, i8},
       make_kernel<BlockAttention>,
       BlockAttention::infer},
  };
}

}  // namespace bqc
