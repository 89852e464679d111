// Sequences of tokens, and the quantisation of attention's values: one exponent for all kept tokens of a
// sequence.
#pragma once

#include "ops/common.h"

namespace bqc {

// Bytes per token of a sequence: -1 where the mask keeps it, 0 where not; all -1 in a sequence where nothing
// is kept. Returns whether anything was kept.
bool effective_mask(const int64_t* mask, int64_t tokens, int32_t* keep);

// The tokens of a sequence among the rows of a tensor.
struct Sequence {
  int64_t first, tokens;
};

// Those of [batch, tokens, ...].
std::vector<Sequence> padded_sequences(int64_t batch, int64_t tokens);
// Those of [tokens, ...] by seq_start int64 [batch + 1]. Throws unless it goes from 0 to tokens, never back.
std::vector<Sequence> ragged_sequences(const Tensor& seq_start, int64_t tokens);

class ValuesQuantizer {
 public:
  ValuesQuantizer(const Node& node, const std::string& prefix);

  // x [B, S, H] as outputs 0 and 1 of the call.
  void run(const Call& call, const KernelSet* set, const float* x, const std::vector<int64_t>& dims,
           const Tensor& mask) const;
  // The same of x [T, H] with a mask [T].
  void run_ragged(const Call& call, const KernelSet* set, const Tensor& x, const Tensor& mask,
                  const Tensor& seq_start) const;
  // Throws where [B, S, H] or the mask does not fit; called before work is done.
  void check(const std::vector<int64_t>& dims, const Tensor& mask) const;

  static void infer(const Inference& node, const std::vector<Dim>& like, Dim batch, Dim columns,
                    const std::string& prefix);

 private:
  void check_columns(int64_t columns) const;
  void quantize(const Call& call, const KernelSet* set, const float* x, const std::vector<int64_t>& dims,
                const std::vector<Sequence>& sequences, const int64_t* mask) const;

  int bits_;
  int64_t heads_, block_;
};

}  // namespace bqc
