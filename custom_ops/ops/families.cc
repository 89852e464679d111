#include "ops/families.h"

#include "kernels/dispatch.h"

namespace bqc {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {{"linear", linear_ops, Work::weights},
                                          {"sign linear", sign_linear_ops, Work::signs},
                                          {"sparse linear", sparse_linear_ops, Work::sparse},
                                          {"xnor linear", xnor_linear_ops, Work::xnor},
                                          {"half", half_ops, Work::halves},
                                          {"attention", attention_ops, Work::codes},
                                          {"float attention", float_attention_ops, Work::floats},
                                          {"embedding", embedding_ops, Work::rows},
                                          {"conversion", conversion_ops, Work::rows},
                                          {"static", static_ops, Work::rows},
                                          {"binarize", binarize_ops, Work::rows},
                                          {"elementwise", elementwise_ops, Work::rows}};
  return all;
}

std::string instructions(const KernelSet& set, Work work) {
  if (work == Work::rows) {
    // A level may share the loops of a slower one.
    const KernelSet* owner = &set;
    for (const KernelSet* other : compiled_kernels()) {
      if (other->rows == set.rows) {
        owner = other;
        break;
      }
    }
    return std::string("loops compiled for ") + owner->name;
  }
  if (work == Work::halves) return set.half->products.by;
  if (work == Work::floats) return set.float_attention->products;
  if (work == Work::xnor) return set.xnor->products;
  if (work == Work::sparse) return set.sparse->products;
  return work == Work::signs ? set.signs->products : set.products;
}

}  // namespace bqc
