// FloatAttention: scores, softmax and context of float32 numbers on one head at a time; and that of sequences
// without padding.
#include "ops/heads.h"

namespace bqc {
namespace {

using ort::Type;

// What both forms share: queries, keys, values and mask, inputs 0 to 3, of some sequences.
class Attention : public Kernel {
 public:
  Attention(const Node& node, const KernelSet* kernels)
      : heads_(node.integer("heads", 12)), scale_(node.real("scale", 1.0f)) {
    BQC_REQUIRE(heads_ >= 1, "attribute heads ", heads_, " must be at least 1");
    set = kernels;
  }

 protected:
  // The output of the call; a sequence shorter than `longest` is padded to it with keys that the mask hides.
  void run(const Call& call, const std::vector<Sequence>& sequences, int64_t longest) const {
    const Tensor q = call.input(0), key = call.input(1), values = call.input(2), mask = call.input(3);
    check_length(longest);
    const int64_t columns = q.last(), width = head_width(columns, heads_);
    BQC_REQUIRE(key.dims == q.dims && values.dims == q.dims, "key ", key.shape(), " and values ",
                values.shape(), " should be ", q.shape(), " as the query");
    const std::vector<int64_t> tokens(q.dims.begin(), q.dims.end() - 1);
    BQC_REQUIRE(mask.dims == tokens, "mask ", mask.shape(), " should have the tokens of query ", q.shape());
    float* y = call.output<float>(0, q.dims);
    each_head(call, sequences, longest, heads_, [&](int64_t b, int64_t h, int64_t first, int64_t last) {
      const Sequence of = sequences[static_cast<size_t>(b)];
      const int64_t at = of.first * columns + h * width, begin = at + first * columns;
      const FloatHead head =
          pack(key.as<float>() + at, values.as<float>() + at, mask.as<int64_t>() + of.first, of.tokens,
               columns, width, longest - of.tokens);
      float* memory = scratch<float>(Slot::tile, set->float_attention->memory(&head));
      set->float_attention->attend(&head, q.as<float>() + begin, columns, last - first, memory, y + begin);
    });
  }

 private:
  // The keys and values that the mask keeps.
  FloatHead pack(const float* key, const float* values, const int64_t* mask, int64_t tokens, int64_t columns,
                 int64_t width, int64_t padding) const {
    int32_t* keep = scratch<int32_t>(Slot::row, tokens);
    const bool alive = effective_mask(mask, tokens, keep);
    float* keys = scratch<float>(Slot::keys, tokens * width);
    float* mixed = scratch<float>(Slot::values, tokens * width);
    int64_t count = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      if (!keep[t]) continue;
      set->float_attention->sanitize(key + t * columns, width, keys + count * width);
      set->float_attention->sanitize(values + t * columns, width, mixed + count * width);
      ++count;
    }
    return {keys, mixed, width, count, scale_, !alive, alive ? 0 : padding};
  }

  int64_t heads_;
  float scale_;
};

class FloatAttention : public Attention {
 public:
  using Attention::Attention;

  void compute(const Call& call) const override {
    const Tensor q = call.input(0);
    require_rank(q, 3, "query", "[batch, sequence, hidden]");
    run(call, padded_sequences(q.dims[0], q.dims[1]), q.dims[1]);
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0);
    if (q.size() == 3) node.output(0, Type::f32, q);
  }
};

class RaggedFloatAttention : public Attention {
 public:
  using Attention::Attention;

  void compute(const Call& call) const override {
    const Tensor q = call.input(0);
    require_rank(q, 2, "query", "[tokens, hidden]");
    const std::vector<Sequence> sequences = ragged_sequences(call.input(4), q.dims[0]);
    run(call, sequences, longest_of(sequences));
  }

  static void infer(const Inference& node) {
    const std::vector<Dim> q = node.input(0);
    if (q.size() == 2) node.output(0, Type::f32, q);
  }
};

}  // namespace

std::vector<OpSpec> float_attention_ops() {
  const Type f32 = Type::f32, i64 = Type::i64;
  return {
      {"FloatAttention", {f32, f32, f32, i64}, {f32}, make_kernel<FloatAttention>, FloatAttention::infer},
      {"RaggedFloatAttention",
       {f32, f32, f32, i64, i64},
       {f32},
       make_kernel<RaggedFloatAttention>,
       RaggedFloatAttention::infer},
  };
}

}  // namespace bqc
