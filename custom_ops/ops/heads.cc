#include "ops/heads.h"

#include <algorithm>

namespace bqc {

int64_t head_width(int64_t columns, int64_t heads) {
  BQC_REQUIRE(columns >= 1 && columns % heads == 0, columns, " columns are not a whole number of ", heads,
              " heads");
  return columns / heads;
}

const Tensor& require_rank(const Tensor& x, int64_t rank, const char* what, const char* shape) {
  BQC_REQUIRE(x.rank() == rank, what, " ", x.shape(), " should be ", shape);
  return x;
}

void check_length(int64_t tokens) {
  BQC_REQUIRE(tokens <= kMaxSum, "a sequence has ", tokens, " tokens; it can have ", kMaxSum);
}

int64_t longest_of(const std::vector<Sequence>& sequences) {
  int64_t longest = 0;
  for (const Sequence& one : sequences) longest = std::max(longest, one.tokens);
  return longest;
}

int64_t query_chunks(int64_t threads, int64_t heads, int64_t tokens) {
  return std::clamp<int64_t>(ceil_div(4 * threads, std::max<int64_t>(heads, 1)), 1,
                             std::max<int64_t>(1, tokens / 64));
}

}  // namespace bqc
