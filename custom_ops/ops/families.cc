#include "ops/families.h"

#include "kernels/kernels.h"

namespace bqc {

const std::vector<Family>& families() {
  static const std::vector<Family> all = {{"linear", linear_ops, Work::weights},
                                          {"attention", attention_ops, Work::codes},
                                          {"embedding", embedding_ops, Work::rows},
                                          {"conversion", conversion_ops, Work::rows},
                                          {"elementwise", elementwise_ops, Work::rows}};
  return all;
}

std::string instructions(const KernelSet& set, Work work) {
  return work == Work::rows ? std::string("loops compiled for ") + set.name : set.products;
}

}  // namespace bqc
