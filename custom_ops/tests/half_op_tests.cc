// Operators over fp16 numbers: what they refuse, and numbers that are known.
#include <gtest/gtest.h>

#include <limits>

#include "op_cases.h"
#include "refusals.h"

namespace fake {
namespace {

// A small HalfLinear or IndexLinear of 40 inputs and 20 outputs.
Case half_linear(bool indices) {
  Case node = {indices ? "IndexLinear" : "HalfLinear",
               {{"layout", std::string("n16")}},
               {zeros(Type::f32, {3, 40}), zeros(indices ? Type::u8 : Type::f16, {2, 40, 16})},
               {1, 2}};
  if (indices) {
    node.inputs.push_back(zeros(Type::f16, {256}));
    node.constants.insert(3);
  }
  node.inputs.push_back(zeros(Type::f32, {20}));
  return node;
}

TEST(HalfLinear, RefusesWhatDoesNotFit) {
  for (const bool indices : {false, true}) {
    const auto changed = [&](size_t input, Type type, std::vector<int64_t> dims) {
      Case node = half_linear(indices);
      node.inputs[input] = zeros(type, std::move(dims));
      return node;
    };
    const Type type = indices ? Type::u8 : Type::f16, other = indices ? Type::f16 : Type::u8;
    const size_t bias = indices ? 3 : 2;
    EXPECT_EQ(refusal(half_linear(indices)), "");
    expect_refusal(changed(1, type, {3, 40, 16}),
                   "weight [3, 40, 16] should be [ceil16(rows) / 16, columns, 16] for 20 rows");
    expect_refusal(changed(1, type, {2, 40, 8}), "weight [2, 40, 8] should be");
    expect_refusal(changed(1, type, {2, 0, 16}), "weight [2, 0, 16] should be");
    expect_refusal(changed(1, type, {2, 640}), "weight [2, 640] should have 3 dimensions");
    expect_refusal(changed(1, other, {2, 40, 16}), indices ? "weight is float16 and should be uint8"
                                                           : "weight is uint8 and should be float16");
    expect_refusal(changed(bias, Type::f32, {0}), "bias is empty");
    expect_refusal(changed(bias, Type::f32, {33}), "for 33 rows");
    expect_refusal(changed(0, Type::f32, {3, 39}),
                   "input [3, 39] should end in the inputs of the weight, 40");
    expect_refusal(changed(0, Type::f32, {}), "input [] should end in");
    expect_refusal(with_attribute(half_linear(indices), "layout", std::string("n16k4")), "n16");
    Case node = half_linear(indices);
    node.constants.erase(1);
    expect_refusal(node, "weight must be a constant initializer");
  }
  expect_refusal(with_dims(half_linear(true), 2, {255}), "table of numbers [255] should be [256]");
}

TEST(HalfLinearAddNorm, RefusesWhatDoesNotFit) {
  Case node = half_linear(false);
  node.op = "HalfLinearAddNorm";
  for (const std::vector<int64_t>& dims : {std::vector<int64_t>{3, 20}, {20}, {20}}) {
    node.inputs.push_back(zeros(Type::f32, dims));
  }
  node.constants.insert({4, 5});
  EXPECT_EQ(refusal(node), "");
  expect_refusal(with_dims(node, 3, {2, 20}),
                 "residual [2, 20] should have the shape of input [3, 40] but for its 20 columns");
  expect_refusal(with_dims(node, 3, {1, 3, 20}),
                 "residual [1, 3, 20] should have the shape of input [3, 40]");
  expect_refusal(with_dims(node, 0, {}), "input [] should end in");
  expect_refusal(with_dims(node, 4, {19}), "gamma [19] and beta [20] should be [20]");
  expect_refusal(with_attribute(node, "epsilon", -1.0f), "attribute epsilon is negative");
}

// Indices of numbers give the bits of the numbers.
TEST(HalfLinear, IsIndexLinearOfItsNumbers) {
  Random random(7);
  Case indices = half_linear(true), halves = half_linear(false);
  for (size_t i = 0; i < 256; ++i)
    indices.inputs[2].as<uint16_t>()[i] = static_cast<uint16_t>(between(random, 0, 0x7bff));
  for (size_t i = 0; i < 1280; ++i) {
    const auto code = static_cast<uint8_t>(random());
    indices.inputs[1].as<uint8_t>()[i] = code;
    halves.inputs[1].as<uint16_t>()[i] = indices.inputs[2].as<uint16_t>()[code];
  }
  for (size_t i = 0; i < 120; ++i)
    indices.inputs[0].as<float>()[i] = 0.01f * static_cast<float>(between(random, -99, 99));
  halves.inputs[0] = indices.inputs[0];
  const Result result = Session(indices).run(indices.inputs, 2);
  ASSERT_EQ(result.error, "");
  EXPECT_TRUE(result.outputs == Session(halves).run(halves.inputs, 1).outputs);
  EXPECT_NE(result.outputs[0].as<float>()[0], 0.0f);
}

TEST(HalfGather, RefusesWhatDoesNotFit) {
  Case node = {"HalfGatherTiles",
               {{"columns", int64_t{5}}, {"rows", int64_t{17}}, {"layout", std::string("n16")}},
               {zeros(Type::i64, {1}), zeros(Type::f16, {2, 5, 16})},
               {1}};
  EXPECT_EQ(refusal(node), "");
  expect_refusal(with_attribute(node, "rows", int64_t{33}),
                 "should be [ceil16(rows) / 16, columns, 16] for 33 rows");
  expect_refusal(with_attribute(node, "rows", std::numeric_limits<int64_t>::min()), "should be");
  expect_refusal(with_attribute(node, "columns", int64_t{6}), "does not fit attribute columns 6");
  node.inputs[0].as<int64_t>()[0] = 17;
  expect_refusal(node, "id 17 of table is outside [-17, 17)");
  node = {"IndexGather",
          {{"columns", int64_t{5}}, {"layout", std::string("row")}},
          {zeros(Type::i64, {1}), zeros(Type::u8, {4, 6}), zeros(Type::f16, {256})},
          {1, 2}};
  expect_refusal(node, "table [4, 6] should have rows of 5");
}

}  // namespace
}  // namespace fake
