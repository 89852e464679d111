// Lookups: rows of a table, whatever it is packed as.
#pragma once

#include <string>
#include <vector>

#include "ops/common.h"

namespace bqc {

inline void check_ids(const Tensor& ids, int64_t rows, const char* name) {
  for (int64_t i = 0; i < ids.count; ++i) {
    const int64_t id = ids.as<int64_t>()[i];
    BQC_REQUIRE(id >= -rows && id < rows, "id ", id, " of ", name, " is outside [-", rows, ", ", rows, ")");
  }
}

// Rows has a layout kLayout, check(ids) and read(kernels, id, y), and is made of a node, its name, the first
// of its inputs, the prefix of its attributes and the columns.
template <class Rows>
class Gather : public Kernel {
 public:
  Gather(const Node& node, const KernelSet* kernels)
      : columns_(node.integer("columns", 768)), table_(node, "table", 1, "", columns_) {
    set = kernels;
    node.expect("layout", Rows::kLayout);
  }

  void compute(const Call& call) const override {
    const Tensor ids = call.input(0);
    table_.check(ids);
    std::vector<int64_t> dims = ids.dims;
    dims.push_back(columns_);
    float* y = call.output<float>(0, dims);
    parallel_ranges(call, ids.count, 8, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) table_.read(set, ids.as<int64_t>()[i], y + i * columns_);
    });
  }

  static void infer(const Inference& node) {
    std::vector<Dim> dims = node.input(0);
    if (dims.empty()) return;  // also a scalar, which looks the same here
    dims.emplace_back(node.integer("columns", 768));
    node.output(0, ort::Type::f32, dims);
  }

 private:
  int64_t columns_;
  Rows table_;
};

}  // namespace bqc
