#include "ops/values.h"

#include <cstring>

namespace bqc {

bool effective_mask(const int64_t* mask, int64_t tokens, int32_t* keep) {
  bool any = false;
  for (int64_t i = 0; i < tokens; ++i) {
    keep[i] = mask[i] != 0 ? -1 : 0;
    any = any || mask[i] != 0;
  }
  if (!any) {
    for (int64_t i = 0; i < tokens; ++i) keep[i] = -1;
  }
  return any;
}

std::vector<Sequence> padded_sequences(int64_t batch, int64_t tokens) {
  std::vector<Sequence> found;
  for (int64_t b = 0; b < batch; ++b) found.push_back({b * tokens, tokens});
  return found;
}

std::vector<Sequence> ragged_sequences(const Tensor& seq_start, int64_t tokens) {
  BQC_REQUIRE(seq_start.rank() == 1 && seq_start.count >= 1, "seq_start ", seq_start.shape(),
              " should be [sequences + 1]");
  const int64_t* at = seq_start.as<int64_t>();
  const int64_t batch = seq_start.count - 1;
  BQC_REQUIRE(at[0] == 0 && at[batch] == tokens, "seq_start goes from ", at[0], " to ", at[batch],
              ", not from 0 to the ", tokens, " tokens");
  std::vector<Sequence> found;
  for (int64_t b = 0; b < batch; ++b) {
    BQC_REQUIRE(at[b] <= at[b + 1], "seq_start goes back from ", at[b], " to ", at[b + 1]);
    found.push_back({at[b], at[b + 1] - at[b]});
  }
  return found;
}

ValuesQuantizer::ValuesQuantizer(const Node& node, const std::string& prefix)
    : bits_(checked_bits(node.integer((prefix + "bits").c_str(), 8), prefix + "bits")),
      heads_(node.integer("heads", 12)),
      block_(node.integer((prefix + "block").c_str(), 64)) {
  BQC_REQUIRE(heads_ >= 1 && block_ >= 1, "attributes heads ", heads_, " and ", prefix, "block ", block_,
              " must be at least 1");
}

void ValuesQuantizer::check_columns(int64_t columns) const {
  BQC_REQUIRE(columns >= 1 && columns % heads_ == 0, columns, " columns are not a whole number of ", heads_,
              " heads");
}

void ValuesQuantizer::check(const std::vector<int64_t>& dims, const Tensor& mask) const {
  BQC_REQUIRE(dims.size() == 3 && mask.rank() == 2 && mask.dims[0] == dims[0] && mask.dims[1] == dims[1],
              "mask ", mask.shape(), " should be [batch, sequence] of the values");
  check_columns(dims[2]);
}

void ValuesQuantizer::run(const Call& call, const KernelSet* set, const float* x,
                          const std::vector<int64_t>& dims, const Tensor& mask) const {
  check(dims, mask);
  quantize(call, set, x, dims, padded_sequences(dims[0], dims[1]), mask.as<int64_t>());
}

void ValuesQuantizer::run_ragged(const Call& call, const KernelSet* set, const Tensor& x, const Tensor& mask,
                                 const Tensor& seq_start) const {
  BQC_REQUIRE(x.rank() == 2 && mask.rank() == 1 && mask.dims[0] == x.dims[0], "x ", x.shape(), " and mask ",
              mask.shape(), " should be [tokens, hidden] and [tokens]");
  check_columns(x.last());
  quantize(call, set, x.as<float>(), x.dims, ragged_sequences(seq_start, x.dims[0]), mask.as<int64_t>());
}

void ValuesQuantizer::quantize(const Call& call, const KernelSet* set, const float* x,
                               const std::vector<int64_t>& dims, const std::vector<Sequence>& sequences,
                               const int64_t* mask) const {
  const int64_t batch = static_cast<int64_t>(sequences.size()), columns = dims.back(),
                width = columns / heads_;
  const Geometry head = make_geometry(width, block_, 0);
  int8_t* codes = call.output<int8_t>(0, dims);
  int8_t* exponents = call.output<int8_t>(1, {batch, heads_ * head.count});
  call.parallel(batch * heads_, [&](int64_t task) {
    const int64_t h = task % heads_;
    const auto [start, tokens] = sequences[static_cast<size_t>(task / heads_)];
    const int64_t at = start * columns + h * width;
    int8_t* e = exponents + task * head.count;
    int32_t* keep = scratch<int32_t>(Slot::row, tokens);
    effective_mask(mask + start, tokens, keep);
    int32_t* largest = scratch<int32_t>(Slot::row2, width);
    std::memset(largest, 0, static_cast<size_t>(width) * sizeof(int32_t));
    for (int64_t t = 0; t < tokens; ++t) {
      if (keep[t]) set->rows->magnitudes(x + at + t * columns, width, largest);
    }
    set->rows->exponents(largest, &head, bits_, e);
    for (int64_t t = 0; t < tokens; ++t) {
      set->rows->encode(x + at + t * columns, e, &head, bits_, codes + at + t * columns);
    }
  });
}

void ValuesQuantizer::infer(const Inference& node, const std::vector<Dim>& like, Dim batch, Dim columns,
                            const std::string& prefix) {
  const int64_t heads = node.integer("heads", 12), block = node.integer((prefix + "block").c_str(), 64);
  node.output(0, ort::Type::i8, with_last(like, columns));
  const bool known = columns.value > 0 && heads > 0 && columns.value % heads == 0;
  const int64_t count = known ? block_count(columns.value, block, columns.value / heads) : -1;
  node.output(1, ort::Type::i8, {batch, Dim(count)});
}

}  // namespace bqc
