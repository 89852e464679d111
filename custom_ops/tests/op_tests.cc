// Operators driven through a small stand-in for ONNX Runtime, so that sanitizers see all of them: many
// threads on one kernel, every ISA level, and nodes that are wrong in thousands of ways.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <thread>

#include "kernels/dispatch.h"
#include "op_cases.h"
#include "ops/level_checks.h"
#include "rounds.h"

namespace fake {
namespace {

struct Size {
  int64_t batch, tokens, heads, width;
  int bits;
};

// Rows by columns and rows by rows, several panels, odd heads, odd ends.
const Size kSizes[] = {{1, 1, 1, 16, 8},   {2, 5, 2, 26, 6}, {1, 37, 3, 32, 4}, {3, 70, 2, 32, 8},
                       {2, 130, 1, 64, 6}, {0, 4, 2, 16, 8}, {2, 9, 2, 26, 2},  {2, 9, 2, 38, 3}};

TEST(Operators, AllHaveCases) {
  Random random(1);
  std::set<std::string> covered;
  for (const Case& node : cases(random, 1, 2, 1, 16, 8)) covered.insert(node.op);
  for (const std::string& name : operators()) EXPECT_TRUE(covered.count(name)) << name;
  EXPECT_EQ(covered.size(), operators().size());
}

TEST(Operators, SameBitsFromManyThreads) {
  Random random(1);
  for (const Size& size : kSizes) {
    for (const Case& node : cases(random, size.batch, size.tokens, size.heads, size.width, size.bits)) {
      const Session session(node);
      ASSERT_EQ(session.error(), "") << node.op;
      const Result expected = session.run(node.inputs, 1);
      ASSERT_EQ(expected.error, "") << node.op;
      std::vector<std::thread> callers;
      std::atomic<int> wrong{0};
      for (int caller = 0; caller < 3; ++caller) {
        callers.emplace_back([&] {
          for (int i = 0; i < 3; ++i) wrong += !(session.run(node.inputs, 3).outputs == expected.outputs);
        });
      }
      for (std::thread& thread : callers) thread.join();
      EXPECT_EQ(wrong, 0) << node.op << " on " << size.tokens << " tokens";
    }
  }
}

TEST(Operators, SameBitsAtEveryLevel) {
  for (const Size& size : kSizes) {
    Random random(2);
    const auto all = cases(random, size.batch, size.tokens, size.heads, size.width, size.bits);
    for (const Case& node : all) {
      std::vector<Array> expected;
      for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
        setenv("BQC_MAX_ISA", set->name, 1);
        const Result result = Session(node).run(node.inputs, 2);
        if (expected.empty()) expected = result.outputs;
        EXPECT_TRUE(result.outputs == expected) << node.op << " at " << set->name;
      }
    }
  }
  unsetenv("BQC_MAX_ISA");
}

TEST(Operators, RefuseOrRunWhatIsSpoiled) {
  const std::vector<const bqc::KernelSet*> levels = bqc::runnable_kernels();
  int refused = 0, failed = 0, ran = 0;
  for (int seed = 0; seed < rounds(1000); ++seed) {
    Random random(static_cast<uint32_t>(seed));
    setenv("BQC_MAX_ISA", levels[static_cast<size_t>(seed) % levels.size()]->name, 1);
    const Size& size = kSizes[between(random, 0, 2)];
    std::vector<Case> all = cases(random, size.batch, size.tokens, size.heads, size.width, size.bits);
    Case& node = all[static_cast<size_t>(between(random, 0, all.size() - 1))];
    for (int64_t n = between(random, 1, 3); n > 0; --n) spoil(random, node);
    infer(node);
    const Session session(node);
    if (!session.error().empty()) {
      // Says where: operator, and node unless there was none to ask.
      EXPECT_EQ(session.error().rfind("ai.bqc::" + node.op + ": node 'the " + node.op + "': ", 0), 0u)
          << session.error();
      ++refused;
      continue;
    }
    const Result result = session.run(node.inputs, 2);
    ++(result.error.empty() ? ran : failed);
    if (!result.error.empty()) {
      EXPECT_EQ(result.error.rfind("ai.bqc::" + node.op + " 'the " + node.op + "': ", 0), 0u) << result.error;
    }
  }
  unsetenv("BQC_MAX_ISA");
  RecordProperty("refused", refused);
  std::printf("%d refused at creation, %d at the run, %d ran\n", refused, failed, ran);
  EXPECT_GT(refused, 0);
  EXPECT_GT(failed, 0);
  EXPECT_GT(ran, 0);
}

// A small SignLinear of 40 inputs and 20 outputs, in blocks of 16.
Case sign_linear(int64_t planes, int64_t scales) {
  Case node = {"SignLinear",
               {{"block", int64_t{16}}, {"group", int64_t{0}}, {"layout", std::string("n16k16")}},
               {Array(Type::i8, {3, 40}), Array(Type::i8, {3, 3}), Array(Type::u8, {planes, 2, 3, 2, 16}),
                Array(Type::f32, {planes, scales}), Array(Type::f32, {20})},
               {2, 3, 4}};
  for (Array& input : node.inputs) std::memset(input.data.get(), 0, input.bytes());
  return node;
}

TEST(SignLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(sign_linear(1, 32)).error(), "");
  EXPECT_EQ(Session(sign_linear(2, 1)).error(), "");
  const auto refused = [](const Case& node) {
    const Session session(node);
    return session.error().empty() ? session.run(node.inputs, 1).error : session.error();
  };
  const auto expect = [&](const Case& node, const std::string& what) {
    EXPECT_NE(refused(node).find(what), std::string::npos) << refused(node) << " should tell of " << what;
  };
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    Case node = sign_linear(1, 32);
    Array& array = node.inputs[input];
    array = Array(array.type, dims);
    std::memset(array.data.get(), 0, array.bytes());
    return node;
  };
  expect(sign_linear(3, 32), "planes [3, 2, 3, 2, 16] are 3; a weight has 1 or 2");
  expect(sign_linear(0, 32), "a weight has 1 or 2");
  expect(sign_linear(1, 20), "scales [1, 20] should be [1, 32] or [1, 1]");
  expect(changed(2, {1, 3, 3, 2, 16}), "planes [1, 3, 3, 2, 16] should be [1, 2, K'/16, 2, 16]");
  expect(changed(2, {1, 2, 3, 16, 2}), "should be [1, 2, K'/16, 2, 16] for a bias of 20");
  expect(changed(2, {1, 2, 0, 2, 16}), "should be [1, 2, K'/16, 2, 16] for a bias of 20");
  expect(changed(2, {1, 2, 4097, 2, 16}), "have more than 65536 inputs");
  expect(changed(2, {2, 3, 2, 16}), "planes");
  expect(changed(3, {2, 32}), "scales [2, 32] should be [1, 32] or [1, 1]");
  expect(changed(4, {0}), "bias is empty");
  expect(changed(2, {1, 2, 4, 2, 16}), "input [3, 40] in 1 groups does not fit planes of 64 padded inputs");
  expect(changed(0, {3, 50}), "does not fit planes of 48 padded inputs");
  expect(changed(1, {3, 2}), "input codes [3, 40] and exponents [3, 2]");
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const int64_t scales : {1, 32}) {
      Case node = sign_linear(2, scales);
      node.inputs[3].as<float>()[2 * scales - 1] = wrong;
      expect(node, "scales [2, " + std::to_string(scales) + "] hold NaN or an infinity; they are finite");
    }
  }
  Case node = sign_linear(1, 32);
  node.attributes["layout"] = std::string("n16k4");
  expect(node, "n16k16");
  node = sign_linear(1, 32);
  node.attributes["block"] = int64_t{24};
  expect(node, "blocks of 24 are not a multiple of 16");
  node = sign_linear(1, 32);
  node.constants = {2, 4};
  expect(node, "scales");
  node = sign_linear(1, 32);
  node.inputs[3] = Array(Type::u8, {1, 32});
  expect(node, "scales is uint8 and should be float32 or float16");
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
               {Array(Type::i8, {3, 40}), Array(Type::i8, {3, 3}),
                Array(Type::u8, {2, static_cast<int64_t>(tiles.size()) / 2}), Array(Type::f32, {32}),
                Array(Type::f32, {20})},
               {2, 3, 4}};
  for (Array& input : node.inputs) std::memset(input.data.get(), 0, input.bytes());
  std::memcpy(node.inputs[2].data.get(), tiles.data(), tiles.size());
  return node;
}

TEST(SparseLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(sparse_linear(8)).error(), "");
  EXPECT_EQ(Session(sparse_linear(4)).error(), "");
  const auto expect = [&](const Case& node, const std::string& what) {
    const Session session(node);
    const std::string error = session.error().empty() ? session.run(node.inputs, 1).error : session.error();
    EXPECT_NE(error.find(what), std::string::npos) << error << " should tell of " << what;
  };
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    Case node = sparse_linear(8);
    Array& array = node.inputs[input];
    array = Array(array.type, dims);
    std::memset(array.data.get(), 0, array.bytes());
    return node;
  };
  const auto with = [](const char* name, Attribute value) {
    Case node = sparse_linear(8);
    node.attributes[name] = std::move(value);
    return node;
  };
  const auto poked = [](int bits, size_t byte, uint8_t value) {
    Case node = sparse_linear(bits);
    node.inputs[2].as<uint8_t>()[byte] = value;
    return node;
  };
  expect(with("kept", int64_t{3}), "attributes kept 3 and of 4: 2 of 4, 1 of 4, 2 of 8 or 4 of 8 are kept");
  expect(with("of", int64_t{0}), "attributes kept 2 and of 0");
  expect(with("bits", int64_t{6}), "attribute bits is 6; kept codes have 8 or 4");
  expect(with("layout", std::string("n16k4")), "n16s4");
  expect(with("block", int64_t{24}), "blocks of 24 are not a multiple of 16");
  expect(with("of", int64_t{8}), "tiles [2, 480] should be [2, K'/16 * 88] for a bias of 20");
  expect(changed(2, {3, 480}), "tiles [3, 480] should be [2, K'/16 * 160] for a bias of 20");
  expect(changed(2, {2, 400}), "should be [2, K'/16 * 160]");
  expect(changed(2, {2, 0}), "should be [2, K'/16 * 160]");
  expect(changed(2, {2, 160 * 4097}), "have more than 65536 inputs");
  expect(changed(2, {2, 3, 160}), "tiles");
  expect(changed(3, {20}), "scales [20] should be [32]");
  expect(changed(3, {1, 32}), "scales");
  expect(changed(4, {0}), "bias is empty");
  expect(changed(0, {3, 50}), "input [3, 50] in 1 groups does not fit tiles of 48 padded inputs");
  expect(changed(1, {3, 2}), "input codes [3, 40] and exponents [3, 2]");
  // The last code of the second strip, then its last indices.
  expect(poked(8, 480 + 6 * 64 - 1, 0), "tiles [2, 480] hold a code of -128; codes are symmetric");
  expect(poked(4, 288 + 6 * 32 - 1, 0x0f), "hold a code of -8; codes are symmetric");
  expect(poked(4, 288 + 6 * 32 - 1, 0x10), "hold a code of -8; codes are symmetric");
  Case node = sparse_linear(8);
  node.inputs[2].as<uint8_t>()[959] = node.inputs[2].as<uint8_t>()[958];
  expect(node, "tiles [2, 480] name an input of an output twice");
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    node = sparse_linear(8);
    node.inputs[3].as<float>()[31] = wrong;
    expect(node, "scales [32] hold NaN or an infinity; they are finite");
  }
  node = sparse_linear(8);
  node.constants = {3, 4};
  expect(node, "tiles");
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
  const auto error = [](Case other) {
    const Session session(other);
    return session.error().empty() ? session.run(other.inputs, 1).error : session.error();
  };
  for (const uint16_t wrong : {0x7c00, 0xfc00, 0x7e00}) {
    halves.inputs[2].as<uint16_t>()[5] = wrong;
    EXPECT_NE(error(halves).find("table scales [2, 3] hold NaN or an infinity"), std::string::npos);
  }
  halves.inputs[2] = Array(Type::i8, {2, 3});
  EXPECT_NE(error(halves).find("table scales is int8 and should be float32 or float16"), std::string::npos);
  Case other = node;
  other.inputs[2].as<float>()[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(error(other).find("table scales [2, 3] hold NaN or an infinity"), std::string::npos);
  node.inputs[2].as<float>()[5] = 1.0f;
  other = node;
  other.inputs[1] = Array(Type::u8, {3, 2, 2});
  EXPECT_NE(error(other).find("has 3 planes; it has 1 or 2"), std::string::npos);
  other = node;
  other.inputs[0].as<int64_t>()[0] = 3;
  EXPECT_NE(error(other).find("id 3 of table is outside [-3, 3)"), std::string::npos);
  other = node;
  other.attributes["columns"] = int64_t{17};
  EXPECT_NE(error(other).find("should have rows of 3 bytes"), std::string::npos) << error(other);
}

// A small HalfLinear or IndexLinear of 40 inputs and 20 outputs.
Case half_linear(bool indices) {
  Case node = {indices ? "IndexLinear" : "HalfLinear",
               {{"layout", std::string("n16")}},
               {Array(Type::f32, {3, 40})},
               {1, 2}};
  node.inputs.emplace_back(indices ? Type::u8 : Type::f16, std::vector<int64_t>{2, 40, 16});
  if (indices) {
    node.inputs.emplace_back(Type::f16, std::vector<int64_t>{256});
    node.constants.insert(3);
  }
  node.inputs.emplace_back(Type::f32, std::vector<int64_t>{20});
  for (Array& input : node.inputs) std::memset(input.data.get(), 0, input.bytes());
  return node;
}

// A small XnorLinear of 100 inputs and 20 outputs.
Case xnor_linear(int64_t scales) {
  Case node = {"XnorLinear",
               {{"columns", int64_t{100}}, {"layout", std::string("n16k64")}},
               {Array(Type::u8, {3, 13}), Array(Type::u8, {2, 2, 8, 16}), Array(Type::f32, {scales}),
                Array(Type::f32, {20})},
               {1, 2, 3}};
  for (Array& input : node.inputs) std::memset(input.data.get(), 0, input.bytes());
  return node;
}

TEST(HalfLinear, RefusesWhatDoesNotFit) {
  const auto refused = [](const Case& node) {
    const Session session(node);
    return session.error().empty() ? session.run(node.inputs, 1).error : session.error();
  };
  const auto expect = [&](const Case& node, const std::string& what) {
    EXPECT_NE(refused(node).find(what), std::string::npos) << refused(node) << " should tell of " << what;
  };
  for (const bool indices : {false, true}) {
    const auto changed = [&](size_t input, Type type, std::vector<int64_t> dims) {
      Case node = half_linear(indices);
      node.inputs[input] = Array(type, dims);
      std::memset(node.inputs[input].data.get(), 0, node.inputs[input].bytes());
      return node;
    };
    const Type type = indices ? Type::u8 : Type::f16, other = indices ? Type::f16 : Type::u8;
    const size_t bias = indices ? 3 : 2;
    EXPECT_EQ(refused(half_linear(indices)), "");
    expect(changed(1, type, {3, 40, 16}),
           "weight [3, 40, 16] should be [ceil16(rows) / 16, columns, 16] for 20 rows");
    expect(changed(1, type, {2, 40, 8}), "weight [2, 40, 8] should be");
    expect(changed(1, type, {2, 0, 16}), "weight [2, 0, 16] should be");
    expect(changed(1, type, {2, 640}), "weight [2, 640] should have 3 dimensions");
    expect(changed(1, other, {2, 40, 16}),
           indices ? "weight is float16 and should be uint8" : "weight is uint8 and should be float16");
    expect(changed(bias, Type::f32, {0}), "bias is empty");
    expect(changed(bias, Type::f32, {33}), "for 33 rows");
    expect(changed(0, Type::f32, {3, 39}), "input [3, 39] should end in the inputs of the weight, 40");
    expect(changed(0, Type::f32, {}), "input [] should end in");
    Case node = half_linear(indices);
    node.attributes["layout"] = std::string("n16k4");
    expect(node, "n16");
    node = half_linear(indices);
    node.constants.erase(1);
    expect(node, "weight must be a constant initializer");
  }
  Case node = half_linear(true);
  node.inputs[2] = Array(Type::f16, {255});
  std::memset(node.inputs[2].data.get(), 0, node.inputs[2].bytes());
  expect(node, "table of numbers [255] should be [256]");
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
               {Array(Type::i64, {1}), Array(Type::f16, {2, 5, 16})},
               {1}};
  for (Array& input : node.inputs) std::memset(input.data.get(), 0, input.bytes());
  const auto error = [](const Case& other) {
    const Session session(other);
    return session.error().empty() ? session.run(other.inputs, 1).error : session.error();
  };
  EXPECT_EQ(error(node), "");
  Case other = node;
  other.attributes["rows"] = int64_t{33};
  EXPECT_NE(error(other).find("should be [ceil16(rows) / 16, columns, 16] for 33 rows"), std::string::npos);
  other = node;
  other.attributes["rows"] = std::numeric_limits<int64_t>::min();
  EXPECT_NE(error(other).find("should be"), std::string::npos);
  other = node;
  other.attributes["columns"] = int64_t{6};
  EXPECT_NE(error(other).find("does not fit attribute columns 6"), std::string::npos);
  other = node;
  other.inputs[0].as<int64_t>()[0] = 17;
  EXPECT_NE(error(other).find("id 17 of table is outside [-17, 17)"), std::string::npos);
  other = {"IndexGather",
           {{"columns", int64_t{5}}, {"layout", std::string("row")}},
           {Array(Type::i64, {1}), Array(Type::u8, {4, 6}), Array(Type::f16, {256})},
           {1, 2}};
  for (Array& input : other.inputs) std::memset(input.data.get(), 0, input.bytes());
  EXPECT_NE(error(other).find("table [4, 6] should have rows of 5"), std::string::npos) << error(other);
}

TEST(XnorLinear, RefusesWhatDoesNotFit) {
  EXPECT_EQ(Session(xnor_linear(32)).error(), "");
  EXPECT_EQ(Session(xnor_linear(1)).error(), "");
  const auto expect = [&](const Case& node, const std::string& what) {
    const Session session(node);
    const std::string said = session.error().empty() ? session.run(node.inputs, 1).error : session.error();
    EXPECT_NE(said.find(what), std::string::npos) << said << " should tell of " << what;
  };
  const auto changed = [](size_t input, std::vector<int64_t> dims) {
    Case node = xnor_linear(32);
    Array& array = node.inputs[input];
    array = Array(array.type, dims);
    std::memset(array.data.get(), 0, array.bytes());
    return node;
  };
  expect(xnor_linear(20), "scales [20] should be [32] or [1]");
  expect(changed(0, {3, 12}), "bits [3, 12] should end in 13 bytes for 100 columns");
  expect(changed(0, {}), "bits [] should end in 13 bytes");
  expect(changed(1, {3, 2, 8, 16}), "tiles [3, 2, 8, 16] should be [2, 2, 8, 16]");
  expect(changed(1, {2, 1, 8, 16}), "should be [2, 2, 8, 16] for 100 columns and a bias of 20");
  expect(changed(1, {2, 2, 16, 8}), "should be [2, 2, 8, 16]");
  expect(changed(1, {2, 2, 8}), "tiles");
  expect(changed(2, {1, 32}), "scales");
  expect(changed(3, {0}), "bias is empty");
  for (const int64_t columns :
       {int64_t{0}, int64_t{-1}, int64_t{65537}, std::numeric_limits<int64_t>::max()}) {
    Case node = xnor_linear(32);
    node.attributes["columns"] = columns;
    expect(node, "attribute columns is " + std::to_string(columns) + "; a row has 1 to 65536");
  }
  for (const int64_t columns : {1, 64, 105, 129, 65536}) {
    Case node = xnor_linear(32);
    node.attributes["columns"] = columns;
    expect(node, "should ");
  }
  for (const float wrong :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Case node = xnor_linear(32);
    node.inputs[2].as<float>()[31] = wrong;
    expect(node, "scales [32] hold NaN or an infinity; they are finite");
  }
  Case node = xnor_linear(32);
  node.attributes["layout"] = std::string("n16k16");
  expect(node, "n16k64");
  node = xnor_linear(32);
  node.constants = {1, 3};
  expect(node, "scales");
}

TEST(Operators, ThreadsComeAndGo) {
  Random random(3);
  const auto all = cases(random, 2, 40, 2, 32, 8);
  for (int i = 0; i < 30; ++i) {
    for (const Case& node : all) {
      std::thread([&] { EXPECT_EQ(Session(node).run(node.inputs, 2).error, ""); }).join();
    }
  }
}

TEST(Inference, TellsShapes) {
  Random random(1);
  for (const Case& node : cases(random, 2, 5, 2, 32, 8)) {
    const Result result = Session(node).run(node.inputs, 1);
    const std::vector<std::string> told = infer(node);
    ASSERT_EQ(told.size(), result.outputs.size()) << node.op;
    for (size_t i = 0; i < told.size(); ++i) {
      std::string text = std::to_string(static_cast<int>(result.outputs[i].type)) + ":";
      for (const int64_t d : result.outputs[i].dims) text += " " + std::to_string(d);
      EXPECT_EQ(told[i], text) << node.op << " output " << i;
    }
  }
}

TEST(Registration, ServesSeveralRuntimesAndThreads) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([] { EXPECT_EQ(register_with(base()), operators().size()); });
  }
  for (std::thread& thread : threads) thread.join();
  // A runtime that is too old is told so through the oldest table.
  bqc::ort::ApiBase old = base();
  static const auto table = old.table;
  old.table = [](uint32_t level) { return level == 1 ? table(level) : nullptr; };
  EXPECT_EQ(register_with(old), 0u);
}

}  // namespace
}  // namespace fake
