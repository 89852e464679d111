// The quantisation of attention's values: one exponent for all kept tokens of a sequence.
#pragma once

#include "ops/common.h"

namespace bqc {

// Bytes per token of a sequence: -1 where the mask keeps it, 0 where not; all -1 in a sequence where nothing
// is kept. Returns whether anything was kept.
bool effective_mask(const int64_t* mask, int64_t tokens, int32_t* keep);

class ValuesQuantizer {
 public:
  ValuesQuantizer(const Node& node, const std::string& prefix);

  // x [B, S, H] as outputs 0 and 1 of the call.
  void run(const Call& call, const KernelSet* set, const float* x, const std::vector<int64_t>& dims,
           const Tensor& mask) const;
  // Throws where [B, S, H] or the mask does not fit; called before work is done.
  void check(const std::vector<int64_t>& dims, const Tensor& mask) const;

  static void infer(const Inference& node, const std::vector<Dim>& like, Dim columns,
                    const std::string& prefix);

 private:
  int bits_;
  int64_t heads_, block_;
};

}  // namespace bqc
