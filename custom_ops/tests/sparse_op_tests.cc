// Operators over N:M-sparse weights: what they refuse.
#include <gtest/gtest.h>

#include <cstring>
#include <limits>

#include "op_cases.h"
#include "ops/level_checks.h"
#include "refusals.h"

namespace fake {
namespace {

// A small SparseLinear of 40 inputs and 20 outputs, 2 of 4 codes, in blocks of 16.
Case sparse_linear(int bits) {
  Random random(6);
  const auto draw = [&](int64_t low, int64_t high) { return between(random, low, high); };
  const std::vector<uint8_t> tiles = bqc::any_sparse_tiles(draw, 2, 48, 2, 4, bits);
  Case node = {"SparseLinear",
               {{"kept", int64_t{2}},
                {"of", int64_t{4}},
                {"bits", int64_t{bits}},
                {"block", int64_t{16}},
                {"group", int64_t{0}},
                {"layout", std::string("n16s4")}},
               {zeros(Type::i8, {3, 40}), zeros(Type::i8, {3, 3}),
                zeros(Type::u8, {2, static_cast<int64_t>(tiles.size()) / 2}), zeros(Type::f32, {32}),
                zeros(Type::f32, {20})},
               {2, 3, 4}};
  std::memcpy(node.inputs[2].data.get(), tiles.data(), tiles.size());
  return node;
}

TEST(SparseLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(sparse_linear(8)).error(), "");
  EXPECT_EQ(Session(sparse_linear(4)).error(), "");
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    return with_dims(sparse_linear(8), input, std::move(dims));
  };
  const auto with = [](const char* name, Attribute value) {
    return with_attribute(sparse_linear(8), name, std::move(value));
  };
  const auto poked = [](int bits, size_t byte, uint8_t value) {
    Case node = sparse_linear(bits);
    node.inputs[2].as<uint8_t>()[byte] = value;
    return node;
  };
  expect_refusal(with("kept", int64_t{3}),
                 "attributes kept 3 and of 4: 2 of 4, 1 of 4, 2 of 8 or 4 of 8 are kept");
  expect_refusal(with("of", int64_t{0}), "attributes kept 2 and of 0");
  expect_refusal(with("bits", int64_t{6}), "attribute bits is 6; kept codes have 8 or 4");
  expect_refusal(with("layout", std::string("n16k4")), "n16s4");
  expect_refusal(with("block", int64_t{24}), "blocks of 24 are not a multiple of 16");
  expect_refusal(with("of", int64_t{8}), "tiles [2, 480] should be [2, K'/16 * 88] for a bias of 20");
  expect_refusal(changed(2, {3, 480}), "tiles [3, 480] should be [2, K'/16 * 160] for a bias of 20");
  expect_refusal(changed(2, {2, 400}), "should be [2, K'/16 * 160]");
  expect_refusal(changed(2, {2, 0}), "should be [2, K'/16 * 160]");
  expect_refusal(changed(2, {2, 160 * 4097}), "have more than 65536 inputs");
  expect_refusal(changed(2, {2, 3, 160}), "tiles");
  expect_refusal(changed(3, {20}), "scales [20] should be [32]");
  expect_refusal(changed(3, {1, 32}), "scales");
  expect_refusal(changed(4, {0}), "bias is empty");
  expect_refusal(changed(0, {3, 50}), "input [3, 50] in 1 groups does not fit tiles of 48 padded inputs");
  expect_refusal(changed(1, {3, 2}), "input codes [3, 40] and exponents [3, 2]");
  // The last code of the second strip, then its last indices.
  expect_refusal(poked(8, 480 + 6 * 64 - 1, 0), "tiles [2, 480] hold a code of -128; codes are symmetric");
  expect_refusal(poked(4, 288 + 6 * 32 - 1, 0x0f), "hold a code of -8; codes are symmetric");
  expect_refusal(poked(4, 288 + 6 * 32 - 1, 0x10), "hold a code of -8; codes are symmetric");
  Case node = sparse_linear(8);
  node.inputs[2].as<uint8_t>()[959] = node.inputs[2].as<uint8_t>()[958];
  expect_refusal(node, "tiles [2, 480] name an input of an output twice");
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    node = sparse_linear(8);
    node.inputs[3].as<float>()[31] = wrong;
    expect_refusal(node, "scales [32] hold NaN or an infinity; they are finite");
  }
  node = sparse_linear(8);
  node.constants = {3, 4};
  expect_refusal(node, "tiles");
}

}  // namespace
}  // namespace fake
