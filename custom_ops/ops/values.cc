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

ValuesQuantizer::ValuesQuantizer(const Node& node, const std::string& prefix)
    : bits_(checked_bits(node.integer((prefix + "bits").c_str(), 8), prefix + "bits")),
      heads_(node.integer("heads", 12)),
      block_(node.integer((prefix + "block").c_str(), 64)) {
  BQC_REQUIRE(heads_ >= 1 && block_ >= 1, "attributes heads ", heads_, " and ", prefix, "block ", block_,
              " must be at least 1");
}

void ValuesQuantizer::check(const std::vector<int64_t>& dims, const Tensor& mask) const {
  BQC_REQUIRE(dims.size() == 3 && mask.rank() == 2 && mask.dims[0] == dims[0] && mask.dims[1] == dims[1],
              "mask ", mask.shape(), " should be [batch, sequence] of the values");
  BQC_REQUIRE(dims[2] >= 1 && dims[2] % heads_ == 0, dims[2], " columns are not a whole number of ", heads_,
              " heads");
}

void ValuesQuantizer::run(const Call& call, const KernelSet* set, const float* x,
                          const std::vector<int64_t>& dims, const Tensor& mask) const {
  check(dims, mask);
  const int64_t batch = dims[0], tokens = dims[1], columns = dims[2], width = columns / heads_;
  const Geometry head = make_geometry(width, block_, 0);
  int8_t* codes = call.output<int8_t>(0, dims);
  int8_t* exponents = call.output<int8_t>(1, {batch, heads_ * head.count});
  call.parallel(batch * heads_, [&](int64_t task) {
    const int64_t b = task / heads_, h = task % heads_;
    const float* from = x + b * tokens * columns + h * width;
    int8_t* e = exponents + task * head.count;
    int32_t* keep = scratch<int32_t>(Slot::row, tokens);
    effective_mask(mask.as<int64_t>() + b * tokens, tokens, keep);
    int32_t* largest = scratch<int32_t>(Slot::row2, width);
    std::memset(largest, 0, static_cast<size_t>(width) * sizeof(int32_t));
    for (int64_t t = 0; t < tokens; ++t) {
      if (keep[t]) set->rows->magnitudes(from + t * columns, width, largest);
    }
    set->rows->exponents(largest, &head, bits_, e);
    for (int64_t t = 0; t < tokens; ++t) {
      set->rows->encode(from + t * columns, e, &head, bits_, codes + (b * tokens + t) * columns + h * width);
    }
  });
}

void ValuesQuantizer::infer(const Inference& node, const std::vector<Dim>& like, Dim columns,
                            const std::string& prefix) {
  const int64_t heads = node.integer("heads", 12), block = node.integer((prefix + "block").c_str(), 64);
  node.output(0, ort::Type::i8, with_last(like, columns));
  const bool known = columns.value > 0 && heads > 0 && columns.value % heads == 0;
  const int64_t count = known ? block_count(columns.value, block, columns.value / heads) : -1;
  node.output(1, ort::Type::i8, {like[0], Dim(count)});
}

}  // namespace bqc
