// BlockScores, MaskedSoftmax, BlockContext, and BlockAttention, which is all of them on one head at a time;
// and that of sequences without padding.
#include <algorithm>
#include <cstring>

#include "ops/heads.h"

namespace bqc {

#include "kernels/blocks.inc"

namespace {

using ort::Type;

constexpr int64_t kQueryRows = 24;  // queries worked off together, their scores in cache
constexpr int32_t kFullCode = 255;  // the softmax code of a row's largest score

struct HeadAttributes {
  int64_t heads, block;

  explicit HeadAttributes(const Node& node)
      : heads(node.integer("heads", 12)), block(node.integer("block", 64)) {
    BQC_REQUIRE(heads >= 1 && block >= 1, "attributes heads ", heads, " and block ", block,
                " must be at least 1");
  }

  // Blocks of one head of `columns`.
  Geometry head(int64_t columns) const { return make_geometry(head_width(columns, heads), block, 0); }
};

// Rows [H] as heads.
struct Heads {
  int64_t columns, heads;
  Geometry head;

  Heads(const Tensor& x, const HeadAttributes& a) : columns(x.last()), heads(a.heads), head(a.head(columns)) {
    BQC_REQUIRE(head.span <= kMaxSum, columns, " columns in ", heads, " heads: a head has at most ", kMaxSum);
    BQC_REQUIRE(head.block == head.span || head.block % 16 == 0, "blocks of ", a.block,
                " are not a multiple of 16");
  }
  int64_t exponents() const { return heads * head.count; }
};

// [B, S, H] as heads.
struct Sizes : Heads {
  int64_t batch, tokens;

  Sizes(const Tensor& x, const HeadAttributes& a, const char* what)
      : Heads(require_rank(x, 3, what, "[batch, sequence, hidden]"), a), batch(x.dims[0]), tokens(x.dims[1]) {
    check_length(tokens);
  }
  Sequence sequence(int64_t b) const { return {b * tokens, tokens}; }
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
  PackedKeys(const KernelSet* set, const Heads& s, const Tensor& key, const Tensor& exponents, Sequence of,
             int64_t h)
      : set_(set), s_(s), strips_(ceil_div(of.tokens, 16)) {
    uint8_t* tiles = scratch<uint8_t>(Slot::keys, strips_ * 16 * round_up(s.head.span, 16));
    set->gemm->pack_keys(key.as<int8_t>() + of.first * s.columns + h * s.head.span, s.columns, of.tokens,
                         &s.head, tiles);
    int8_t* e = scratch<int8_t>(Slot::codes, s.head.count * strips_ * 16);
    const int8_t* from = exponents.as<int8_t>() + of.first * s.exponents() + h * s.head.count;
    for (int64_t i = 0; i < s.head.count; ++i) {
      int8_t* row = e + i * strips_ * 16;
      // They become a weight's, of which kernels take none below the least.
      for (int64_t t = 0; t < of.tokens; ++t) {
        row[t] = static_cast<int8_t>(looked_up(from[t * s.exponents() + i]));
      }
      std::memset(row + of.tokens, 0, static_cast<size_t>(strips_ * 16 - of.tokens));
    }
    tiles_ = tiles;
    exponents_ = e;
  }

  int64_t stride() const { return strips_ * 16; }

  // Products of the head's queries in rows [row, row + rows) with all keys.
  void multiply(const Tensor& q, const Tensor& exponents, int64_t h, int64_t row, int64_t rows,
                float* out) const {
    void* panel = scratch<char>(Slot::panel, set_->gemm->panel_bytes(&s_.head, rows));
    set_->gemm->prepare(&s_.head, 8, q.as<int8_t>() + row * s_.columns + h * s_.head.span, s_.columns,
                        exponents.as<int8_t>() + row * s_.exponents() + h * s_.head.count, s_.exponents(),
                        rows, panel);
    set_->gemm->multiply(&s_.head, 8, panel, rows, tiles_, exponents_, strips_, 0, strips_, out, stride());
  }

 private:
  const KernelSet* set_;
  const Heads& s_;
  int64_t strips_;
  const uint8_t* tiles_;
  const int8_t* exponents_;
};

// Values of one head, packed for the products with softmax codes.
class PackedValues {
 public:
  PackedValues(const KernelSet* set, const Heads& s, const Tensor& values, const Tensor& exponents, int64_t b,
               Sequence of, int64_t h)
      : set_(set),
        s_(s),
        tokens_(of.tokens),
        strips_(ceil_div(s.head.span, 16)),
        exponents_(exponents.as<int8_t>() + (b * s.heads + h) * s.head.count) {
    int8_t* tiles = scratch<int8_t>(Slot::values, strips_ * 16 * round_up(tokens_, 4));
    set->gemm->pack_values(values.as<int8_t>() + of.first * s.columns + h * s.head.span, s.columns, tokens_,
                           s.head.span, tiles);
    tiles_ = tiles;
  }

  // row(i, context [span]) for each row of codes, whose stride is a multiple of 4 with zeros after the last
  // key. `more` is what the codes of keys that are not here, with values of 0, add up to.
  template <class Row>
  void mix(const uint8_t* codes, int64_t stride, int64_t rows, int32_t more, const Row& row) const {
    const int64_t wide = strips_ * 16;
    int32_t* dot = scratch<int32_t>(Slot::row2, rows * wide);
    float* y = scratch<float>(Slot::row3, wide);
    set_->gemm->mix(codes, stride, rows, tiles_, tokens_, strips_, dot, wide);
    for (int64_t r = 0; r < rows; ++r) {
      set_->rows->context(dot + r * wide, exponents_, &s_.head,
                          set_->rows->sum_codes(codes + r * stride, tokens_) + more, y);
      row(r, y);
    }
  }

 private:
  const KernelSet* set_;
  const Heads& s_;
  int64_t tokens_, strips_;
  const int8_t* exponents_;
  const int8_t* tiles_;
};

template <class Body>
void each_head(const Call& call, const Sizes& s, const Body& body) {
  each_head(call, padded_sequences(s.batch, s.tokens), s.tokens, s.heads, body);
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
      const PackedKeys keys(set, s, key, ke, s.sequence(b), h);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        float* products = scratch<float>(Slot::tile, rows * keys.stride());
        keys.multiply(q, qe, h, b * s.tokens + at, rows, products);
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
      const PackedValues packed(set, s, values, e, b, s.sequence(b), h);
      const int64_t stride = round_up(s.tokens, 4);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        uint8_t* codes = scratch<uint8_t>(Slot::panel, rows * stride);
        for (int64_t r = 0; r < rows; ++r) {
          const uint8_t* from = p.as<uint8_t>() + ((b * s.heads + h) * s.tokens + at + r) * s.tokens;
          std::memcpy(codes + r * stride, from, static_cast<size_t>(s.tokens));
          std::memset(codes + r * stride + s.tokens, 0, static_cast<size_t>(stride - s.tokens));
        }
        packed.mix(codes, stride, rows, 0, [&](int64_t r, const float* context) {
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

// What both forms of attention share: queries, keys and values, inputs 0 to 5, of some sequences.
class Attention : public Kernel {
 public:
  Attention(const Node& node, const KernelSet* kernels)
      : heads_(node),
        scale_(node.real("scale", 1.0f)),
        out_bits_(checked_bits(node.integer("out_bits", 8), "out_bits")) {
    set = kernels;
  }

 protected:
  // Outputs of the call; a sequence shorter than `longest` is padded to it with keys that the mask hides.
  void run(const Call& call, const Heads& s, const std::vector<Sequence>& sequences, int64_t longest,
           const int64_t* mask) const {
    const Tensor q = call.input(0), qe = call.input(1), key = call.input(2), ke = call.input(3);
    const Tensor values = call.input(4), ve = call.input(5);
    int8_t* codes = call.output<int8_t>(0, q.dims);
    int8_t* exponents = call.output<int8_t>(1, with_last(q.dims, s.exponents()));
    each_head(call, sequences, longest, s.heads, [&](int64_t b, int64_t h, int64_t first, int64_t last) {
      const Sequence of = sequences[static_cast<size_t>(b)];
      const PackedKeys keys(set, s, key, ke, of, h);
      const PackedValues packed(set, s, values, ve, b, of, h);
      int32_t* keep = scratch<int32_t>(Slot::shared2, of.tokens);
      const bool alive = effective_mask(mask + of.first, of.tokens, keep);
      // Where nothing is kept all keys are alike, those of the padding too.
      const int32_t padding = alive ? 0 : static_cast<int32_t>(longest - of.tokens) * kFullCode;
      const int64_t stride = round_up(of.tokens, 64);
      float* row_scores = scratch<float>(Slot::row, of.tokens);
      for (int64_t at = first; at < last; at += kQueryRows) {
        const int64_t rows = std::min(kQueryRows, last - at);
        float* products = scratch<float>(Slot::tile, rows * keys.stride());
        keys.multiply(q, qe, h, of.first + at, rows, products);
        uint8_t* p = scratch<uint8_t>(Slot::shared, rows * stride);
        for (int64_t r = 0; r < rows; ++r) {
          set->rows->scale(products + r * keys.stride(), scale_, of.tokens, row_scores);
          set->rows->softmax(row_scores, keep, alive, of.tokens, p + r * stride);
          std::memset(p + r * stride + of.tokens, 0, static_cast<size_t>(stride - of.tokens));
        }
        packed.mix(p, stride, rows, padding, [&](int64_t r, const float* context) {
          const int64_t row = of.first + at + r;
          set->rows->quantize(context, &s.head, out_bits_, codes + row * s.columns + h * s.head.span,
                              exponents + row * s.exponents() + h * s.head.count);
        });
      }
    });
  }

  HeadAttributes heads_;

 private:
  float scale_;
  int out_bits_;
};

class BlockAttention : public Attention {
 public:
  using Attention::Attention;

  void compute(const Call& call) const override {
    const Tensor q = call.input(0), mask = call.input(6);
    const Sizes s(q, heads_, "query");
    s.check(q, call.input(1), "query");
    s.check(call.input(2), call.input(3), "key");
    s.check_values(call.input(4), call.input(5));
    BQC_REQUIRE(mask.dims == std::vector<int64_t>({s.batch, s.tokens}), "mask ", mask.shape(), " should be [",
                s.batch, ", ", s.tokens, "]");
    run(call, s, padded_sequences(s.batch, s.tokens), s.tokens, mask.as<int64_t>());
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0), e = node.input(1);
    if (q.size() == 3) node.output(0, Type::i8, q);
    if (e.size() == 3) node.output(1, Type::i8, e);
  }
};

class RaggedBlockAttention : public Attention {
 public:
  using Attention::Attention;

  void compute(const Call& call) const override {
    const Tensor q = call.input(0), ve = call.input(5), mask = call.input(6);
    const Heads s(require_rank(q, 2, "query", "[tokens, hidden]"), heads_);
    const int64_t tokens = q.dims[0];
    const std::vector<Sequence> sequences = ragged_sequences(call.input(7), tokens);
    const int64_t longest = longest_of(sequences);
    check_length(longest);
    const std::vector<int64_t> rows = {tokens, s.columns}, counts = {tokens, s.exponents()};
    const char* names[] = {"query", "query exponents", "key", "key exponents", "values"};
    for (size_t i = 0; i < 5; ++i) {
      const Tensor x = call.input(i);
      const std::vector<int64_t>& wanted = i % 2 == 0 ? rows : counts;
      BQC_REQUIRE(x.dims == wanted, names[i], " ", x.shape(), " should be [", wanted[0], ", ", wanted[1],
                  "]");
    }
    const int64_t batch = static_cast<int64_t>(sequences.size());
    BQC_REQUIRE(ve.dims == std::vector<int64_t>({batch, s.exponents()}), "value exponents ", ve.shape(),
                " should be [", batch, ", ", s.exponents(), "]");
    BQC_REQUIRE(mask.dims == std::vector<int64_t>({tokens}), "mask ", mask.shape(), " should be [", tokens,
                "]");
    run(call, s, sequences, longest, mask.as<int64_t>());
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0), e = node.input(1);
    if (q.size() == 2) node.output(0, Type::i8, q);
    if (e.size() == 2) node.output(1, Type::i8, e);
  }
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
      {"RaggedBlockAttention",
       {i8, i8, i8, i8, i8, i8, Type::i64, Type::i64},
       {i8, i8},
       make_kernel<RaggedBlockAttention>,
       RaggedBlockAttention::infer},
  };
}

}  // namespace bqc
