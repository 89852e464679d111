// Operators over signs: what they refuse, and numbers that are known.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "op_cases.h"
#include "refusals.h"

namespace fake {
namespace {

// A small SignLinear of 40 inputs and 20 outputs, in blocks of 16.
Case sign_linear(int64_t planes, int64_t scales) {
  return {"SignLinear",
          {{"block", int64_t{16}}, {"group", int64_t{0}}, {"layout", std::string("n16k16")}},
          {zeros(Type::i8, {3, 40}), zeros(Type::i8, {3, 3}), zeros(Type::u8, {planes, 2, 3, 2, 16}),
           zeros(Type::f32, {planes, scales}), zeros(Type::f32, {20})},
          {2, 3, 4}};
}

TEST(SignLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(sign_linear(1, 32)).error(), "");
  EXPECT_EQ(Session(sign_linear(2, 1)).error(), "");
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    return with_dims(sign_linear(1, 32), input, std::move(dims));
  };
  expect_refusal(sign_linear(3, 32), "planes [3, 2, 3, 2, 16] are 3; a weight has 1 or 2");
  expect_refusal(sign_linear(0, 32), "a weight has 1 or 2");
  expect_refusal(sign_linear(1, 20), "scales [1, 20] should be [1, 32] or [1, 1]");
  expect_refusal(changed(2, {1, 3, 3, 2, 16}), "planes [1, 3, 3, 2, 16] should be [1, 2, K'/16, 2, 16]");
  expect_refusal(changed(2, {1, 2, 3, 16, 2}), "should be [1, 2, K'/16, 2, 16] for a bias of 20");
  expect_refusal(changed(2, {1, 2, 0, 2, 16}), "should be [1, 2, K'/16, 2, 16] for a bias of 20");
  expect_refusal(changed(2, {1, 2, 4097, 2, 16}), "have more than 65536 inputs");
  expect_refusal(changed(2, {2, 3, 2, 16}), "planes");
  expect_refusal(changed(3, {2, 32}), "scales [2, 32] should be [1, 32] or [1, 1]");
  expect_refusal(changed(4, {0}), "bias is empty");
  expect_refusal(changed(2, {1, 2, 4, 2, 16}),
                 "input [3, 40] in 1 groups does not fit planes of 64 padded inputs");
  expect_refusal(changed(0, {3, 50}), "does not fit planes of 48 padded inputs");
  expect_refusal(changed(1, {3, 2}), "input codes [3, 40] and exponents [3, 2]");
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int64_t scales : {1, 32}) {
      Case node = sign_linear(2, scales);
      node.inputs[3].as<float>()[2 * scales - 1] = wrong;
      expect_refusal(node,
                     "scales [2, " + std::to_string(scales) + "] hold NaN or an infinity; they are finite");
    }
  }
  expect_refusal(with_attribute(sign_linear(1, 32), "layout", std::string("n16k4")), "n16k16");
  expect_refusal(with_attribute(sign_linear(1, 32), "block", int64_t{24}),
                 "blocks of 24 are not a multiple of 16");
  Case node = sign_linear(1, 32);
  node.constants = {2, 4};
  expect_refusal(node, "scales");
  node = sign_linear(1, 32);
  node.inputs[3] = Array(Type::u8, {1, 32});
  expect_refusal(node, "scales is uint8 and should be float32 or float16");
}

// One scale of all outputs is that scale for every one of them.
TEST(SignLinear, SharesAScale) {
  Random random(4);
  Case shared = sign_linear(2, 1), each = sign_linear(2, 32);
  for (size_t i = 0; i < 3; ++i) {
    for (size_t j = 0; j < shared.inputs[i].bytes(); ++j) {
      shared.inputs[i].as<uint8_t>()[j] = static_cast<uint8_t>(i == 1 ? 1 : random());
    }
    each.inputs[i] = shared.inputs[i];
  }
  const float scales[] = {0.7f, -0.3f};
  for (size_t p = 0; p < 2; ++p) {
    shared.inputs[3].as<float>()[p] = scales[p];
    for (size_t n = 0; n < 32; ++n) each.inputs[3].as<float>()[32 * p + n] = scales[p];
  }
  const Result result = Session(shared).run(shared.inputs, 1);
  ASSERT_EQ(result.error, "");
  EXPECT_TRUE(result.outputs == Session(each).run(each.inputs, 2).outputs);
  // And a scale that fp16 has is the same in either type.
  Case halves = shared;
  halves.inputs[3] = Array(Type::f16, {2, 1});
  const uint16_t packed[] = {0x3800, 0xb400};
  std::memcpy(halves.inputs[3].data.get(), packed, sizeof packed);
  shared.inputs[3].as<float>()[0] = 0.5f;
  shared.inputs[3].as<float>()[1] = -0.25f;
  EXPECT_TRUE(Session(halves).run(halves.inputs, 1).outputs == Session(shared).run(shared.inputs, 2).outputs);
  EXPECT_NE(result.outputs[0].as<float>()[0], 0.0f);
}

TEST(SignGather, ReadsSignsByColumn) {
  // Rows of 11 columns: 2 bytes, bit b of byte j is column j + 2 b.
  Case node = {"SignGather",
               {{"columns", int64_t{11}}, {"layout", std::string("row")}},
               {Array(Type::i64, {2}), Array(Type::u8, {2, 3, 2}), Array(Type::f32, {2, 3})},
               {1, 2}};
  node.inputs[0].as<int64_t>()[0] = 1;
  node.inputs[0].as<int64_t>()[1] = -1;
  Random random(5);
  for (size_t i = 0; i < 12; ++i) node.inputs[1].as<uint8_t>()[i] = static_cast<uint8_t>(random());
  for (size_t i = 0; i < 6; ++i) node.inputs[2].as<float>()[i] = 0.1f * static_cast<float>(i + 1);
  const Result result = Session(node).run(node.inputs, 1);
  ASSERT_EQ(result.error, "");
  EXPECT_EQ(result.outputs[0].dims, (std::vector<int64_t>{2, 11}));
  for (size_t i = 0; i < 2; ++i) {
    for (size_t column = 0; column < 11; ++column) {
      float signs[2];
      for (size_t p = 0; p < 2; ++p) {
        const uint8_t byte = node.inputs[1].as<uint8_t>()[(p * 3 + i + 1) * 2 + column % 2];
        signs[p] = byte >> column / 2 & 1 ? 1.0f : -1.0f;
      }
      const float* scales = node.inputs[2].as<float>() + i + 1;
      EXPECT_EQ(result.outputs[0].as<float>()[i * 11 + column], scales[0] * signs[0] + scales[3] * signs[1]);
    }
  }
  // The same scales in fp16: numbers that it has, its smallest one and its largest among them.
  Case halves = node;
  const uint16_t packed[] = {0x3c00, 0x0001, 0xb8cd, 0x03ff, 0x7bff, 0x8000};
  const float wide[] = {1.0f, 0x1p-24f, -0.60009765625f, 0x3ffp-24f, 65504.0f, -0.0f};
  halves.inputs[2] = Array(Type::f16, {2, 3});
  std::memcpy(halves.inputs[2].data.get(), packed, sizeof packed);
  std::memcpy(node.inputs[2].data.get(), wide, sizeof wide);
  EXPECT_TRUE(Session(halves).run(halves.inputs, 2).outputs == Session(node).run(node.inputs, 1).outputs);
  for (const uint16_t wrong : {0x7c00, 0xfc00, 0x7e00}) {
    halves.inputs[2].as<uint16_t>()[5] = wrong;
    expect_refusal(halves, "table scales [2, 3] hold NaN or an infinity");
  }
  halves.inputs[2] = Array(Type::i8, {2, 3});
  expect_refusal(halves, "table scales is int8 and should be float32 or float16");
  expect_refusal(with_dims(node, 1, {3, 2, 2}), "has 3 planes; it has 1 or 2");
  expect_refusal(with_attribute(node, "columns", int64_t{17}), "should have rows of 3 bytes");
  node.inputs[0].as<int64_t>()[0] = 3;
  expect_refusal(node, "id 3 of table is outside [-3, 3)");
  node.inputs[2].as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  expect_refusal(node, "table scales [2, 3] hold NaN or an infinity");
}

}  // namespace
}  // namespace fake
