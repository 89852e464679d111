// Operators on signs by signs: what they refuse.
#include <gtest/gtest.h>

#include <limits>

#include "refusals.h"

namespace fake {
namespace {

// A small XnorLinear of 100 inputs and 20 outputs.
Case xnor_linear(int64_t scales) {
  return {"XnorLinear",
          {{"columns", int64_t{100}}, {"layout", std::string("n16k64")}},
          {zeros(Type::u8, {3, 13}), zeros(Type::u8, {2, 2, 8, 16}), zeros(Type::f32, {scales}),
           zeros(Type::f32, {20})},
          {1, 2, 3}};
}

TEST(XnorLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(xnor_linear(32)).error(), "");
  EXPECT_EQ(Session(xnor_linear(1)).error(), "");
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    return with_dims(xnor_linear(32), input, std::move(dims));
  };
  expect_refusal(xnor_linear(20), "scales [20] should be [32] or [1]");
  expect_refusal(changed(0, {3, 12}), "bits [3, 12] should end in 13 bytes for 100 columns");
  expect_refusal(changed(0, {}), "bits [] should end in 13 bytes");
  expect_refusal(changed(1, {3, 2, 8, 16}), "tiles [3, 2, 8, 16] should be [2, 2, 8, 16]");
  expect_refusal(changed(1, {2, 1, 8, 16}), "should be [2, 2, 8, 16] for 100 columns and a bias of 20");
  expect_refusal(changed(1, {2, 2, 16, 8}), "should be [2, 2, 8, 16]");
  expect_refusal(changed(1, {2, 2, 8}), "tiles");
  expect_refusal(changed(2, {1, 32}), "scales");
  expect_refusal(changed(3, {0}), "bias is empty");
  for (const int64_t columns :
       {int64_t{0}, int64_t{-1}, int64_t{65537}, std::numeric_limits<int64_t>::max()}) {
    expect_refusal(with_attribute(xnor_linear(32), "columns", columns),
                   "attribute columns is " + std::to_string(columns) + "; a row has 1 to 65536");
  }
  for (const int64_t columns : {1, 64, 105, 129, 65536}) {
    expect_refusal(with_attribute(xnor_linear(32), "columns", columns), "should ");
  }
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Case node = xnor_linear(32);
    node.inputs[2].as<float>()[31] = wrong;
    expect_refusal(node, "scales [32] hold NaN or an infinity; they are finite");
  }
  expect_refusal(with_attribute(xnor_linear(32), "layout", std::string("n16k16")), "n16k64");
  Case node = xnor_linear(32);
  node.constants = {1, 3};
  expect_refusal(node, "scales");
}

}  // namespace
}  // namespace fake
