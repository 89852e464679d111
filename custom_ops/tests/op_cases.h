// Valid nodes of every operator with random contents, and ways to spoil them.
#pragma once

#include <random>

#include "fake_ort.h"

namespace fake {

using Random = std::mt19937;

int64_t between(Random& random, int64_t low, int64_t high);

// One node of every operator on [batch, tokens, heads * width].
std::vector<Case> cases(Random& random, int64_t batch, int64_t tokens, int64_t heads, int64_t width,
                        int bits);

// One thing about the node made wrong, or just odd: a dimension, an attribute, a type, contents.
void spoil(Random& random, Case& node);

}  // namespace fake
