#include "op_cases.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "ops/common.h"
#include "ops/level_checks.h"

namespace fake {
namespace {

using Dims = std::vector<int64_t>;

constexpr Type f32 = Type::f32, f16 = Type::f16, u8 = Type::u8, i8 = Type::i8, i64 = Type::i64;

struct Sparsity {
  int kept, of, bits;
};

// Fills arrays with values that make sense for what they are.
struct Maker {
  Random& random;
  int bits;
  int64_t block;

  template <class T>
  Array whole(Type type, const Dims& dims, int64_t low, int64_t high) {
    Array a(type, dims);
    for (size_t i = 0; i < a.count(); ++i) a.as<T>()[i] = static_cast<T>(between(random, low, high));
    return a;
  }
  Array floats(const Dims& dims) {
    std::normal_distribution<float> normal(0, 2);
    Array a(f32, dims);
    for (size_t i = 0; i < a.count(); ++i) a.as<float>()[i] = normal(random);
    return a;
  }
  Array codes(const Dims& dims) { return whole<int8_t>(i8, dims, -127, 127); }
  Array exponents(const Dims& dims) { return whole<int8_t>(i8, dims, -12, -3); }
  Array ids(const Dims& dims, int64_t rows) { return whole<int64_t>(i64, dims, -rows, rows - 1); }
  Array mask(const Dims& dims) { return whole<int64_t>(i64, dims, 0, 2); }
  int64_t blocks(int64_t length, int64_t group = 0) { return bqc::make_geometry(length, block, group).count; }

  // Codes and exponents of [B, S, n], the exponents in blocks inside groups.
  std::vector<Array> pair(int64_t b, int64_t s, int64_t n, int64_t group = 0) {
    return {codes({b, s, n}), exponents({b, s, blocks(n, group)})};
  }
  // Codes and exponents of a matrix [out, in] as a linear reads it.
  std::vector<Array> tiles(int64_t out, int64_t in) {
    const int64_t strips = bqc::ceil_div(out, 16), padded = bqc::round_up(in, 16);
    return {whole<uint8_t>(u8, {strips, bqc::tile_count(padded, bits), 16, 4}, 0, 255),
            exponents({blocks(in), strips * 16})};
  }
  std::vector<Array> linear(int64_t b, int64_t s, int64_t in, int64_t out) {
    std::vector<Array> all = pair(b, s, in);
    for (const Array& part : tiles(out, in)) all.push_back(part);
    all.push_back(floats({out}));
    return all;
  }
  // The same with one or two planes of signs, which share a scale or have one for every output.
  std::vector<Array> sign_linear(int64_t b, int64_t s, int64_t in, int64_t out) {
    const int64_t strips = bqc::ceil_div(out, 16), planes = between(random, 1, 2);
    std::vector<Array> all = pair(b, s, in);
    all.push_back(whole<uint8_t>(u8, {planes, strips, bqc::ceil_div(in, 16), 2, 16}, 0, 255));
    all.push_back(scales({planes, between(random, 0, 1) ? strips * 16 : 1}));
    all.push_back(floats({out}));
    return all;
  }
  // Where each of `sequences` begins among so many tokens, and where the last ends.
  Array starts(int64_t sequences, int64_t tokens) {
    Array out = whole<int64_t>(i64, {sequences + 1}, 0, tokens);
    int64_t* at = reinterpret_cast<int64_t*>(out.data.get());
    std::sort(at, at + sequences + 1);
    at[0] = 0;
    if (sequences > 0) at[sequences] = tokens;
    return out;
  }
  // Bits, and tiles of bits that share a scale or have one for every output.
  std::vector<Array> xnor_linear(int64_t b, int64_t s, int64_t in, int64_t out) {
    const int64_t strips = bqc::ceil_div(out, 16);
    return {whole<uint8_t>(u8, {b, s, bqc::ceil_div(in, 8)}, 0, 255),
            whole<uint8_t>(u8, {strips, bqc::ceil_div(in, 64), 8, 16}, 0, 255),
            floats({between(random, 0, 1) ? strips * 16 : 1}), floats({out})};
  }
  // The same with kept codes of 8 or 4 bits.
  std::vector<Array> sparse_linear(int64_t b, int64_t s, int64_t in, int64_t out, const Sparsity& sparsity) {
    const int64_t strips = bqc::ceil_div(out, 16);
    const auto draw = [this](int64_t low, int64_t high) { return between(random, low, high); };
    const std::vector<uint8_t> tiles =
        bqc::any_sparse_tiles(draw, strips, bqc::round_up(in, 16), sparsity.kept, sparsity.of, sparsity.bits);
    std::vector<Array> all = pair(b, s, in);
    all.emplace_back(u8, Dims{strips, static_cast<int64_t>(tiles.size()) / strips});
    std::memcpy(all.back().data.get(), tiles.data(), tiles.size());
    all.push_back(floats({strips * 16}));
    all.push_back(floats({out}));
    return all;
  }
  std::vector<Array> sign_table(int64_t rows, int64_t columns) {
    const int64_t planes = between(random, 1, 2);
    return {whole<uint8_t>(u8, {planes, rows, bqc::ceil_div(columns, 8)}, 0, 255),
            scales({planes, between(random, 0, 1) ? rows : 1})};
  }
  // float32 or float16.
  Array scales(const Dims& dims) { return between(random, 0, 1) ? halves(dims) : floats(dims); }
  // fp16 numbers up to about 2, or any of them but infinities and NaN.
  Array halves(const Dims& dims) {
    return whole<uint16_t>(f16, dims, 0, between(random, 0, 1) ? 0x4000 : 0x7bff);
  }
  // A matrix in strips, as numbers or as indices and the table of numbers.
  std::vector<Array> strips(int64_t out, int64_t in, bool indices) {
    const Dims dims = {bqc::ceil_div(out, 16), in, 16};
    if (!indices) return {halves(dims)};
    return {whole<uint8_t>(u8, dims, 0, 255), halves({256})};
  }
  std::vector<Array> table(int64_t rows, int64_t columns) {
    return {whole<uint8_t>(u8, {rows, bqc::table_row_bytes(columns, bits)}, 0, 255),
            exponents({rows, blocks(columns)})};
  }
};

std::vector<Array> joined(std::vector<Array> a, const std::vector<Array>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// Copies what fits and fills the rest with zeros.
Array resized(const Array& a, const Dims& dims) {
  Array out(a.type, dims);
  const size_t common = std::min(a.bytes(), out.bytes());
  std::memcpy(out.data.get(), a.data.get(), common);
  std::memset(out.data.get() + common, 0, out.bytes() - common);
  return out;
}

}  // namespace

int64_t between(Random& random, int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(random);
}

std::vector<Case> cases(Random& random, int64_t b, int64_t s, int64_t heads, int64_t width, int bits) {
  const int64_t hidden = heads * width, wide = 2 * hidden + 6, block = 16;
  Maker m{random, bits, block};
  using Attributes = std::map<std::string, Attribute>;
  const auto with = [](Attributes a, const Attributes& more) {
    a.insert(more.begin(), more.end());
    return a;
  };
  const Attributes format = {{"bits", int64_t{bits}}, {"block", block}, {"group", int64_t{0}}};
  const Attributes activations = {
      {"bits", int64_t{std::max(bits, 4)}}, {"block", block}, {"group", int64_t{0}}};
  const Attributes out = {{"out_bits", int64_t{8}}, {"out_block", block}, {"out_group", int64_t{0}}};
  const Attributes tiles = with(format, {{"layout", std::string("n16k4")}});
  const Attributes signs = {{"block", block}, {"group", int64_t{0}}, {"layout", std::string("n16k16")}};
  const auto sign_linear = [&](int64_t in, int64_t n) { return m.sign_linear(b, s, in, n); };
  const auto xnor = [&](int64_t in) {
    return Attributes{{"columns", in}, {"layout", std::string("n16k64")}};
  };
  const int of = between(random, 0, 1) ? 8 : 4, kept = between(random, 0, 1) ? 2 : of == 8 ? 4 : 1;
  const Sparsity sparsity = {kept, of, bits > 4 ? 8 : 4};
  const Attributes sparse = {{"kept", int64_t{sparsity.kept}},
                             {"of", int64_t{sparsity.of}},
                             {"bits", int64_t{sparsity.bits}},
                             {"block", block},
                             {"group", int64_t{0}},
                             {"layout", std::string("n16s4")}};
  const auto sparse_linear = [&](int64_t in, int64_t n) { return m.sparse_linear(b, s, in, n, sparsity); };
  const Attributes head = {{"heads", heads}, {"block", block}};
  const Attributes scaled = with(head, {{"scale", 0.125f}});
  const Attributes attention = {{"heads", heads}, {"scale", 0.125f}};
  const Dims x = {b, s, hidden};
  const int64_t tokens = b * s;
  const auto linear = [&](int64_t in, int64_t n) { return m.linear(b, s, in, n); };
  const int64_t head_exponents = m.blocks(hidden, width);
  const std::vector<Array> values = {m.codes(x), m.exponents({b, head_exponents})};
  const std::vector<Array> query = m.pair(b, s, hidden, width), key = m.pair(b, s, hidden, width);
  const std::vector<Array> affine = {m.floats({hidden}), m.floats({hidden})};
  const Attributes embedding = {{"columns", hidden},
                                {"word_bits", int64_t{bits}},
                                {"type_bits", int64_t{bits}},
                                {"position_bits", int64_t{bits}},
                                {"block", block},
                                {"epsilon", 1e-12f},
                                {"layout", std::string("row")}};
  Attributes sign_embedding = with(embedding, out);
  sign_embedding.erase("word_bits");
  const std::vector<Array> others = joined(joined(m.table(2, hidden), m.table(s + 3, hidden)), affine);
  const std::vector<Array> ids = {m.ids({b, s}, 11), m.ids({b, s}, 2), m.ids({1, s}, s + 3)};
  const Attributes tiled = {{"rows", int64_t{11}}, {"word_layout", std::string("n16k4")}};
  const Attributes strips = {{"layout", std::string("n16")}},
                   half_rows = {{"columns", hidden}, {"layout", std::string("row")}},
                   half_lanes = {{"columns", hidden}, {"rows", int64_t{21}}, {"layout", std::string("n16")}};
  return {
      {"BlockQuantize", activations, {m.floats(x)}, {}},
      {"BlockDequantize", format, m.pair(b, s, hidden), {}},
      {"BlockQuantizeValues", with(head, {{"bits", int64_t{8}}}), {m.floats(x), m.mask({b, s})}, {}},
      {"StaticQuantize", with(activations, {{"minimum", -0.17f}}), {m.floats(x), m.floats({1})}, {}},
      {"StaticQuantizeValues", with(head, {{"bits", int64_t{4}}}), {m.floats(x), m.floats({1})}, {}},
      {"Gelu", {{"approximate", int64_t{1}}}, {m.floats(x)}, {}},
      {"Tanh", {}, {m.floats(x)}, {}},
      {"LayerNorm", {{"epsilon", 1e-12f}}, joined({m.floats(x)}, affine), {}},
      {"BlockLinear", tiles, linear(hidden, wide), {2, 3, 4}},
      {"BlockLinearQuantize", with(tiles, out), linear(hidden, wide), {2, 3, 4}},
      {"BlockLinearQuantizeValues",
       with(tiles, {{"heads", heads}, {"out_bits", int64_t{8}}, {"out_block", block}}),
       joined(linear(wide, hidden), {m.mask({b, s})}),
       {2, 3, 4}},
      {"BlockLinearGelu",
       with(with(tiles, out), {{"approximate", int64_t{0}}}),
       linear(hidden, wide),
       {2, 3, 4}},
      {"BlockLinearRelu", with(tiles, out), linear(hidden, wide), {2, 3, 4}},
      {"BlockLinearAddNorm",
       with(with(tiles, out),
            {{"residual_block", block}, {"residual_group", int64_t{0}}, {"epsilon", 1e-5f}}),
       joined(joined(linear(wide, hidden), m.pair(b, s, hidden)), affine),
       {2, 3, 4, 7, 8}},
      {"SignLinear", signs, sign_linear(hidden, wide), {2, 3, 4}},
      {"SignLinearQuantize", with(signs, out), sign_linear(hidden, wide), {2, 3, 4}},
      {"SignLinearQuantizeValues",
       with(signs, {{"heads", heads}, {"out_bits", int64_t{8}}, {"out_block", block}}),
       joined(sign_linear(wide, hidden), {m.mask({b, s})}),
       {2, 3, 4}},
      {"SignLinearGelu",
       with(with(signs, out), {{"approximate", int64_t{0}}}),
       sign_linear(hidden, wide),
       {2, 3, 4}},
      {"SignLinearRelu", with(signs, out), sign_linear(hidden, wide), {2, 3, 4}},
      {"SignLinearAddNorm",
       with(with(signs, out),
            {{"residual_block", block}, {"residual_group", int64_t{0}}, {"epsilon", 1e-5f}}),
       joined(joined(sign_linear(wide, hidden), m.pair(b, s, hidden)), affine),
       {2, 3, 4, 7, 8}},
      {"HalfRound", {}, {m.floats(x)}, {}},
      {"HalfLinear",
       strips,
       joined(joined({m.floats(x)}, m.strips(wide, hidden, false)), {m.floats({wide})}),
       {1, 2}},
      {"IndexLinear",
       strips,
       joined(joined({m.floats(x)}, m.strips(wide, hidden, true)), {m.floats({wide})}),
       {1, 2, 3}},
      {"HalfLinearGelu",
       with(strips, {{"approximate", int64_t{1}}}),
       joined(joined({m.floats(x)}, m.strips(wide, hidden, false)), {m.floats({wide})}),
       {1, 2}},
      {"IndexLinearGelu",
       with(strips, {{"approximate", int64_t{0}}}),
       joined(joined({m.floats(x)}, m.strips(wide, hidden, true)), {m.floats({wide})}),
       {1, 2, 3}},
      {"HalfLinearRelu",
       strips,
       joined(joined({m.floats(x)}, m.strips(wide, hidden, false)), {m.floats({wide})}),
       {1, 2}},
      {"IndexLinearRelu",
       strips,
       joined(joined({m.floats(x)}, m.strips(wide, hidden, true)), {m.floats({wide})}),
       {1, 2, 3}},
      {"HalfLinearAddNorm",
       with(strips, {{"epsilon", 1e-5f}}),
       joined(joined(joined({m.floats({b, s, wide})}, m.strips(hidden, wide, false)),
                     {m.floats({hidden}), m.floats(x)}),
              affine),
       {1, 2, 4, 5}},
      {"IndexLinearAddNorm",
       with(strips, {{"epsilon", 1e-5f}}),
       joined(joined(joined({m.floats({b, s, wide})}, m.strips(hidden, wide, true)),
                     {m.floats({hidden}), m.floats(x)}),
              affine),
       {1, 2, 3, 5, 6}},
      {"HalfGather", half_rows, {m.ids({b, s}, 11), m.halves({11, hidden})}, {1}},
      {"IndexGather",
       half_rows,
       {m.ids({b, s}, 11), m.whole<uint8_t>(u8, {11, hidden}, 0, 255), m.halves({256})},
       {1, 2}},
      {"HalfGatherTiles", half_lanes, joined({m.ids({b, s}, 21)}, m.strips(21, hidden, false)), {1}},
      {"IndexGatherTiles", half_lanes, joined({m.ids({b, s}, 21)}, m.strips(21, hidden, true)), {1, 2}},
      {"Binarize", {}, {m.floats(x)}, {}},
      {"BinarizeCodes", {}, {m.codes(x)}, {}},
      {"XnorLinear", xnor(hidden), m.xnor_linear(b, s, hidden, wide), {1, 2, 3}},
      {"XnorLinearBinarize", xnor(hidden), m.xnor_linear(b, s, hidden, wide), {1, 2, 3}},
      {"XnorLinearAddNorm",
       with(with(xnor(wide), out),
            {{"residual_block", block}, {"residual_group", int64_t{0}}, {"epsilon", 1e-5f}}),
       joined(joined(m.xnor_linear(b, s, wide, hidden), m.pair(b, s, hidden)), affine),
       {1, 2, 3, 6, 7}},
      {"SparseLinear", sparse, sparse_linear(hidden, wide), {2, 3, 4}},
      {"SparseLinearQuantize", with(sparse, out), sparse_linear(hidden, wide), {2, 3, 4}},
      {"SparseLinearQuantizeValues",
       with(sparse, {{"heads", heads}, {"out_bits", int64_t{8}}, {"out_block", block}}),
       joined(sparse_linear(wide, hidden), {m.mask({b, s})}),
       {2, 3, 4}},
      {"SparseLinearGelu",
       with(with(sparse, out), {{"approximate", int64_t{0}}}),
       sparse_linear(hidden, wide),
       {2, 3, 4}},
      {"SparseLinearRelu", with(sparse, out), sparse_linear(hidden, wide), {2, 3, 4}},
      {"SparseLinearAddNorm",
       with(with(sparse, out),
            {{"residual_block", block}, {"residual_group", int64_t{0}}, {"epsilon", 1e-5f}}),
       joined(joined(sparse_linear(wide, hidden), m.pair(b, s, hidden)), affine),
       {2, 3, 4, 7, 8}},
      {"BlockScores", scaled, joined(query, key), {}},
      {"MaskedSoftmax", {}, {m.floats({b, heads, s, s}), m.mask({b, s})}, {}},
      {"BlockContext", head, joined({m.whole<uint8_t>(u8, {b, heads, s, s}, 0, 255)}, values), {}},
      {"BlockAttention",
       with(scaled, {{"out_bits", int64_t{8}}}),
       joined(joined(joined(query, key), values), {m.mask({b, s})}),
       {}},
      {"FloatAttention", attention, {m.floats(x), m.floats(x), m.floats(x), m.mask({b, s})}, {}},
      {"RaggedFloatAttention",
       attention,
       {m.floats({tokens, hidden}), m.floats({tokens, hidden}), m.floats({tokens, hidden}), m.mask({tokens}),
        m.starts(b, tokens)},
       {}},
      {"RaggedBlockQuantizeValues",
       with(head, {{"bits", int64_t{8}}}),
       {m.floats({tokens, hidden}), m.mask({tokens}), m.starts(b, tokens)},
       {}},
      {"RaggedBlockAttention",
       with(scaled, {{"out_bits", int64_t{8}}}),
       {m.codes({tokens, hidden}), m.exponents({tokens, head_exponents}), m.codes({tokens, hidden}),
        m.exponents({tokens, head_exponents}), m.codes({tokens, hidden}), m.exponents({b, head_exponents}),
        m.mask({tokens}), m.starts(b, tokens)},
       {}},
      {"BlockGather",
       {{"columns", hidden}, {"bits", int64_t{bits}}, {"block", block}, {"layout", std::string("row")}},
       joined({m.ids({b, s}, 11)}, m.table(11, hidden)),
       {1, 2}},
      {"EmbeddingLayerNorm",
       with(embedding, out),
       joined(joined(ids, m.table(11, hidden)), others),
       {3, 4, 5, 6, 7, 8, 9, 10}},
      {"BlockGatherTiles",
       {{"columns", hidden},
        {"rows", int64_t{21}},
        {"bits", int64_t{bits}},
        {"block", block},
        {"layout", std::string("n16k4")}},
       joined({m.ids({b, s}, 21)}, m.tiles(21, hidden)),
       {1, 2}},
      {"EmbeddingLayerNormTiles",
       with(with(embedding, out), tiled),
       joined(joined(ids, m.tiles(11, hidden)), others),
       {3, 4, 5, 6, 7, 8, 9, 10}},
      {"SignGather",
       {{"columns", hidden}, {"layout", std::string("row")}},
       joined({m.ids({b, s}, 11)}, m.sign_table(11, hidden)),
       {1, 2}},
      {"SignEmbeddingLayerNorm",
       sign_embedding,
       joined(joined(ids, m.sign_table(11, hidden)), others),
       {3, 4, 5, 6, 7, 8, 9, 10}},
  };
}

void spoil(Random& random, Case& node) {
  using Limits = std::numeric_limits<int64_t>;
  static const int64_t kSizes[] = {0, 1, 2, 3, 4, 15, 16, 17, 31, 48, 64, 100};
  static const int64_t kNumbers[] = {
      Limits::min(), -1, 0, 1, 2, 4, 6, 8, 15, 16, 17, 32, 64, 1 << 20, int64_t{1} << 40, Limits::max()};
  const auto pick = [&](const auto& from) { return from[between(random, 0, std::size(from) - 1)]; };
  Array& input = node.inputs[static_cast<size_t>(between(random, 0, node.inputs.size() - 1))];
  switch (between(random, 0, 6)) {
    case 0:
    case 1: {  // another dimension
      Dims dims = input.dims;
      if (dims.empty()) break;
      int64_t& d = dims[static_cast<size_t>(between(random, 0, dims.size() - 1))];
      d = between(random, 0, 1) ? pick(kSizes) : std::max<int64_t>(0, d + between(random, -2, 2));
      input = resized(input, dims);
      break;
    }
    case 2: {  // another rank
      Dims dims = input.dims;
      if (!dims.empty() && between(random, 0, 1)) {
        dims.pop_back();
      } else {
        dims.insert(dims.begin() + between(random, 0, dims.size()), pick(kSizes) % 5);
      }
      input = resized(input, dims);
      break;
    }
    case 3:
    case 4: {  // another attribute
      if (node.attributes.empty()) break;
      auto at = node.attributes.begin();
      std::advance(at, between(random, 0, node.attributes.size() - 1));
      if (at->second.index() == 0) {
        at->second = pick(kNumbers);
      } else if (at->second.index() == 1) {
        static const float kFloats[] = {-1.0f, 0.0f, 1e38f, std::numeric_limits<float>::quiet_NaN()};
        at->second = pick(kFloats);
      } else {
        at->second = std::string("other");
      }
      if (between(random, 0, 3) == 0) node.attributes.erase(at);
      break;
    }
    case 5: {  // any contents
      for (size_t i = 0; i < input.bytes(); ++i) input.data[i] = static_cast<char>(random());
      break;
    }
    case 6: {  // no constant any more, or another type of the same width
      if (!node.constants.empty() && between(random, 0, 1)) {
        node.constants.erase(node.constants.begin());
      } else if (input.type == u8 || input.type == i8) {
        input.type = input.type == u8 ? i8 : u8;
      }
      break;
    }
  }
}

}  // namespace fake
