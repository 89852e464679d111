#include "ops/families.h"

#include "kernels/kernels.h"

namespace bqc {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {{"linear", linear_ops, Work::weights},
                                          {"sign linear", sign_linear_ops, Work::signs},
                                          {"sparse linear", sparse_linear_ops, Work::sparse},
                                          {"attention", attention_ops, Work::codes},
                                          {"embedding", embedding_ops, Work::rows},
                                          {"conversion", conversion_ops, Work::rows},
                                          {"elementwise", elementwise_ops, Work::rows}};
  return all;
}

std::string instructions(const KernelSet& set, Work work) {
  if (work == Work::rows) return std::string("loops compiled for ") + set.name;
  if (work == Work::sparse) return set.sparse->products;
  return work == Work::signs ? set.signs->products : set.products;
}

}  // namespace bqc
