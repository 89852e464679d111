// Heads of attention: how many columns one has, and how the heads of sequences are shared out.
#pragma once

#include "ops/values.h"

namespace bqc {

// Columns of one head. Throws unless they are whole heads, at least one.
int64_t head_width(int64_t columns, int64_t heads);

// The tensor, which has so many dimensions. Throws where it has not.
const Tensor& require_rank(const Tensor& x, int64_t rank, const char* what, const char* shape);

// Throws where a sequence has more tokens than attention takes.
void check_length(int64_t tokens);

// The tokens of the longest sequence, 0 of none.
int64_t longest_of(const std::vector<Sequence>& sequences);

// Parts that the queries of a sequence are worked off in: with those of all heads enough for all threads, few
// enough that packing keys and values in each is cheap.
int64_t query_chunks(int64_t threads, int64_t heads, int64_t tokens);

// body(b, h, first query, last query) for sequences of at most `longest` tokens; queries count from the
// beginning of their sequence.
template <class Body>
void each_head(const Call& call, const std::vector<Sequence>& sequences, int64_t longest, int64_t heads,
               const Body& body) {
  const int64_t all = static_cast<int64_t>(sequences.size()) * heads,
                chunks = query_chunks(call.threads(), all, longest);
  call.parallel(all * chunks, [&](int64_t task) {
    const int64_t chunk = task % chunks, head = task / chunks;
    const int64_t tokens = sequences[static_cast<size_t>(head / heads)].tokens;
    const int64_t first = tokens * chunk / chunks, last = tokens * (chunk + 1) / chunks;
    if (first < last) body(head / heads, head % heads, first, last);
  });
}

}  // namespace bqc
