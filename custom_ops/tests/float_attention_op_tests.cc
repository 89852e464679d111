// Attention of float32 numbers: what its operators refuse, and that hidden keys change nothing.
#include <gtest/gtest.h>

#include <limits>

#include "op_cases.h"
#include "refusals.h"

namespace fake {
namespace {

// Three sequences of seven tokens, in two heads of 26.
Case attention() {
  const auto x = [] { return zeros(Type::f32, {3, 7, 52}); };
  return {"FloatAttention",
          {{"heads", int64_t{2}}, {"scale", 0.5f}},
          {x(), x(), x(), zeros(Type::i64, {3, 7})},
          {}};
}

// The same tokens without padding.
Case ragged() {
  const auto x = [] { return zeros(Type::f32, {21, 52}); };
  Array starts = zeros(Type::i64, {4});
  for (int i = 1; i < 4; ++i) starts.as<int64_t>()[i] = 7 * i;
  return {"RaggedFloatAttention",
          {{"heads", int64_t{2}}, {"scale", 0.5f}},
          {x(), x(), x(), zeros(Type::i64, {21}), starts},
          {}};
}

TEST(FloatAttention, RefusesWhatDoesNotFit) {
  EXPECT_EQ(refusal(attention()), "");
  expect_refusal(with_dims(attention(), 0, {21, 52}), "query [21, 52] should be [batch, sequence, hidden]");
  expect_refusal(with_dims(attention(), 1, {3, 7, 26}),
                 "key [3, 7, 26] and values [3, 7, 52] should be [3, 7, 52] as the query");
  expect_refusal(with_dims(attention(), 2, {3, 6, 52}), "values [3, 6, 52] should be [3, 7, 52]");
  expect_refusal(with_dims(attention(), 3, {3, 6}), "mask [3, 6] should have the tokens of query [3, 7, 52]");
  expect_refusal(with_attribute(attention(), "heads", int64_t{0}), "attribute heads 0 must be at least 1");
  expect_refusal(with_attribute(attention(), "heads", int64_t{3}),
                 "52 columns are not a whole number of 3 heads");
}

TEST(RaggedFloatAttention, RefusesWhatDoesNotFit) {
  EXPECT_EQ(refusal(ragged()), "");
  expect_refusal(with_dims(ragged(), 0, {3, 7, 52}), "query [3, 7, 52] should be [tokens, hidden]");
  expect_refusal(with_dims(ragged(), 3, {20}), "mask [20] should have the tokens of query [21, 52]");
  Case node = ragged();
  node.inputs[4].as<int64_t>()[3] = 20;
  expect_refusal(node, "seq_start goes from 0 to 20, not from 0 to the 21 tokens");
  node.inputs[4].as<int64_t>()[1] = 15;
  node.inputs[4].as<int64_t>()[3] = 21;
  expect_refusal(node, "seq_start goes back from 15 to 14");
}

// Keys that the mask hides may hold anything, at either end and between.
TEST(FloatAttention, SkipsHiddenKeys) {
  Random random(3);
  Case node = attention();
  for (size_t i = 0; i < 3; ++i) {
    float* x = node.inputs[i].as<float>();
    for (size_t j = 0; j < node.inputs[i].count(); ++j)
      x[j] = 0.01f * static_cast<float>(between(random, -200, 200));
  }
  int64_t* mask = node.inputs[3].as<int64_t>();
  for (int i = 0; i < 21; ++i) mask[i] = i / 7 == 1 ? 1 : i % 7 % 3;
  const Result before = Session(node).run(node.inputs, 1);
  ASSERT_EQ(before.error, "");
  for (size_t t = 0; t < 21; ++t) {
    for (size_t c = 0; c < 52 && !mask[t]; ++c) {
      node.inputs[1].as<float>()[t * 52 + c] = std::numeric_limits<float>::max();
      node.inputs[2].as<float>()[t * 52 + c] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  EXPECT_TRUE(Session(node).run(node.inputs, 2).outputs == before.outputs);
  EXPECT_NE(before.outputs[0].as<float>()[0], 0.0f);
}

}  // namespace
}  // namespace fake
