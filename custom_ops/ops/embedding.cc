// BlockGather, EmbeddingLayerNorm and their forms over tiles and signs: rows of packed lookup tables.
#include "ops/gather.h"

namespace bqc {
namespace {

using ort::Type;

// The attribute PREFIXbits of a table.
int table_bits(const Node& node, const std::string& prefix) {
  return checked_weight_bits(node.integer((prefix + "bits").c_str(), 8), prefix + "bits");
}

// A table row_u<bits>, read in place.
class Table {
 public:
  static constexpr const char* kLayout = "row";

  Table(const Node& node, const char* name, size_t index, const std::string& prefix, int64_t columns)
      : name_(name), bits_(table_bits(node, prefix)), columns_(columns) {
    BQC_REQUIRE(columns >= 1, "a table of ", columns, " columns");
    g_ = make_geometry(columns, node.integer("block", 64), 0);
    const Tensor codes = node.constant(index, name, Type::u8, 2);
    const Tensor exponents =
        node.constant(index + 1, (std::string(name) + " exponents").c_str(), Type::i8, 2);
    rows_ = codes.dims[0];
    row_bytes_ = table_row_bytes(columns, bits_);
    BQC_REQUIRE(codes.dims[1] == row_bytes_, name, " ", codes.shape(), " should have rows of ", row_bytes_,
                " bytes");
    BQC_REQUIRE(exponents.dims[0] == rows_ && exponents.dims[1] == g_.count, name, " exponents ",
                exponents.shape(), " should be [", rows_, ", ", g_.count, "]");
    check_exponents(exponents, (std::string(name) + " exponents").c_str());
    codes_ = codes.as<uint8_t>();
    exponents_ = exponents.as<int8_t>();
  }

  void check(const Tensor& ids) const { check_ids(ids, rows_, name_); }

  void read(const KernelSet* set, int64_t id, float* y) const { unpack(set, id, set->rows->dequantize, y); }
  // y += the row.
  void add(const KernelSet* set, int64_t id, float* y) const {
    unpack(set, id, set->rows->add_dequantized, y);
  }

 private:
  template <class Dequantize>
  void unpack(const KernelSet* set, int64_t id, Dequantize dequantize, float* y) const {
    const int64_t row = id < 0 ? id + rows_ : id;
    int8_t* codes = scratch<int8_t>(Slot::codes, round_up(columns_, 8));
    set->rows->unpack_row(codes_ + row * row_bytes_, bits_, columns_, codes);
    dequantize(codes, exponents_ + row * g_.count, &g_, y);
  }

  const char* name_;
  int bits_;
  int64_t columns_, rows_, row_bytes_;
  Geometry g_;
  const uint8_t* codes_;
  const int8_t* exponents_;
};

// A table n16k4_u<bits>, which a linear reads as its weight: a row is one lane of consecutive tiles.
class TileTable {
 public:
  static constexpr const char* kLayout = "n16k4";

  TileTable(const Node& node, const char* name, size_t index, const std::string& prefix, int64_t columns)
      : name_(name), bits_(table_bits(node, prefix)), columns_(columns), rows_(node.integer("rows", 768)) {
    BQC_REQUIRE(columns >= 1, "a table of ", columns, " columns");
    g_ = make_geometry(columns, node.integer("block", 64), 0);
    const Tensor tiles = node.constant(index, name, Type::u8, 4);
    const std::string scales_name = std::string(name) + " scales";
    const Tensor scales = node.constant(index + 1, scales_name.c_str(), Type::i8, 2);
    const int64_t strips = tiles.dims[0], steps = tile_count(round_up(columns, 16), bits_);
    padded_rows_ = strips * 16;
    strip_bytes_ = steps * 64;
    BQC_REQUIRE(tiles.dims[1] == steps && tiles.dims[2] == 16 && tiles.dims[3] == 4, name, " ", tiles.shape(),
                " should be [ceil16(rows) / 16, ", steps, ", 16, 4] for ", columns, " columns of ", bits_,
                " bits");
    BQC_REQUIRE(rows_ > padded_rows_ - 16 && rows_ <= padded_rows_, name, " ", tiles.shape(),
                " does not fit attribute rows ", rows_);
    BQC_REQUIRE(scales.dims[0] == g_.count && scales.dims[1] == padded_rows_, scales_name, " ",
                scales.shape(), " should be [", g_.count, ", ", padded_rows_, "]");
    check_exponents(scales, scales_name.c_str());
    tiles_ = tiles.as<uint8_t>();
    scales_ = scales.as<int8_t>();
  }

  void check(const Tensor& ids) const { check_ids(ids, rows_, name_); }

  void read(const KernelSet* set, int64_t id, float* y) const {
    const int64_t row = id < 0 ? id + rows_ : id;
    int8_t* codes = scratch<int8_t>(Slot::codes, round_up(columns_, 16));
    int8_t* exponents = scratch<int8_t>(Slot::exponents, g_.count);
    set->rows->unpack_lane(tiles_ + row / 16 * strip_bytes_ + row % 16 * 4, bits_, columns_, codes);
    for (int64_t i = 0; i < g_.count; ++i) exponents[i] = scales_[i * padded_rows_ + row];
    set->rows->dequantize(codes, exponents, &g_, y);
  }

 private:
  const char* name_;
  int bits_;
  int64_t columns_, rows_, padded_rows_, strip_bytes_;
  Geometry g_;
  const uint8_t* tiles_;
  const int8_t* scales_;
};

// One or two planes of signs, with float32 or float16 scales, which are read in place.
class SignTable {
 public:
  static constexpr const char* kLayout = "row";

  SignTable(const Node& node, const char* name, size_t index, const std::string&, int64_t columns)
      : name_(name), columns_(columns) {
    BQC_REQUIRE(columns >= 1 && columns <= kMaxLength, "a table of ", columns, " columns");
    const Tensor planes = node.constant(index, name, Type::u8, 3);
    const std::string scales_name = std::string(name) + " scales";
    const Tensor scales = node.real_constant(index + 1, scales_name.c_str(), 2);
    count_ = planes.dims[0];
    rows_ = planes.dims[1];
    row_bytes_ = ceil_div(columns, 8);
    BQC_REQUIRE(count_ == 1 || count_ == 2, name, " ", planes.shape(), " has ", count_,
                " planes; it has 1 or 2");
    BQC_REQUIRE(planes.dims[2] == row_bytes_, name, " ", planes.shape(), " should have rows of ", row_bytes_,
                " bytes");
    BQC_REQUIRE(scales.dims[0] == count_ && (scales.dims[1] == rows_ || scales.dims[1] == 1), scales_name,
                " ", scales.shape(), " should be [", count_, ", ", rows_, "] or [", count_, ", 1]");
    check_finite(scales, scales_name.c_str());
    scales_per_plane_ = scales.dims[1];
    planes_ = planes.as<uint8_t>();
    scales_ = scales;
  }

  void check(const Tensor& ids) const { check_ids(ids, rows_, name_); }

  void read(const KernelSet* set, int64_t id, float* y) const {
    const int64_t row = id < 0 ? id + rows_ : id;
    for (int64_t p = 0; p < count_; ++p) {
      const float scale = real_at(scales_, p * scales_per_plane_ + (scales_per_plane_ == 1 ? 0 : row));
      set->rows->signs(planes_ + (p * rows_ + row) * row_bytes_, scale, columns_, p > 0, y);
    }
  }

 private:
  const char* name_;
  int64_t columns_, count_, rows_, row_bytes_, scales_per_plane_;
  const uint8_t* planes_;
  Tensor scales_;
};

template <class Words>
class Embedding : public Kernel {
 public:
  Embedding(const Node& node, const KernelSet* kernels)
      : gamma_(node, 9, "gamma"),
        beta_(node, 10, "beta"),
        columns_(gamma_.count()),
        word_(node, "word table", 3, "word_", columns_),
        type_(node, "type table", 5, "type_", columns_),
        position_(node, "position table", 7, "position_", columns_),
        epsilon_(node.real("epsilon", 1e-12f)),
        format_(Format::from(node, "out_")),
        out_(make_geometry(columns_, format_.block, format_.group)) {
    set = kernels;
    node.expect("layout", "row");
    BQC_REQUIRE(node.integer("columns", 768) == columns_, "attribute columns does not fit gamma ",
                gamma_.shape());
    BQC_REQUIRE(beta_.count() == columns_, "gamma ", gamma_.shape(), " and beta ", beta_.shape(),
                " should be alike");
    BQC_REQUIRE(epsilon_ >= 0, "attribute epsilon is negative");
  }

  void compute(const Call& call) const override {
    const Tensor ids = call.input(0), types = call.input(1), positions = call.input(2);
    BQC_REQUIRE(ids.rank() == 2 && types.dims == ids.dims && positions.rank() == 2 &&
                    (positions.dims[0] == 1 || positions.dims[0] == ids.dims[0]) &&
                    positions.dims[1] == ids.dims[1],
                "ids ", ids.shape(), ", type ids ", types.shape(), " and position ids ", positions.shape(),
                " should be [batch, sequence], the last also [1, sequence]");
    word_.check(ids);
    type_.check(types);
    position_.check(positions);
    int8_t* codes = call.output<int8_t>(0, {ids.dims[0], ids.dims[1], columns_});
    int8_t* exponents = call.output<int8_t>(1, {ids.dims[0], ids.dims[1], out_.count});
    parallel_ranges(call, ids.count, 8, [&](int64_t first, int64_t last) {
      float* x = scratch<float>(Slot::row, columns_);
      float* y = scratch<float>(Slot::row2, columns_);
      int32_t* q = scratch<int32_t>(Slot::row3, columns_);
      for (int64_t i = first; i < last; ++i) {
        word_.read(set, ids.as<int64_t>()[i], x);
        type_.add(set, types.as<int64_t>()[i], x);
        position_.add(set, positions.as<int64_t>()[i % positions.count], x);
        set->rows->layer_norm(x, gamma_.data(), beta_.data(), epsilon_, columns_, q, y);
        set->rows->quantize(y, &out_, format_.bits, codes + i * columns_, exponents + i * out_.count);
      }
    });
  }

  static void infer(const Inference& node) {
    std::vector<Dim> dims = node.input(0);
    const std::vector<Dim> gamma = node.input(9);
    if (dims.size() != 2) return;
    dims.emplace_back();
    infer_quantized(node, dims, gamma.size() == 1 ? gamma[0] : Dim(), "out_");
  }

 private:
  Numbers gamma_, beta_;
  int64_t columns_;
  Words word_;
  Table type_, position_;
  float epsilon_;
  Format format_;
  Geometry out_;
};

class EmbeddingLayerNormTiles : public Embedding<TileTable> {
 public:
  EmbeddingLayerNormTiles(const Node& node, const KernelSet* kernels) : Embedding(node, kernels) {
    node.expect("word_layout", TileTable::kLayout);
  }
};

}  // namespace

std::vector<OpSpec> embedding_ops() {
  const Type id = Type::i64, u8 = Type::u8, i8 = Type::i8;
  const Type f32 = Type::f32;
  const std::vector<Type> gather = {id, u8, i8};
  const Type real = Type::undefined;  // float32 or float16
  const std::vector<Type> embedding = {id, id, id, u8, i8, u8, i8, u8, i8, real, real};
  const std::vector<Type> sign_embedding = {id, id, id, u8, real, u8, i8, u8, i8, real, real};
  return {
      {"BlockGather", gather, {Type::f32}, make_kernel<Gather<Table>>, Gather<Table>::infer},
      {"BlockGatherTiles", gather, {Type::f32}, make_kernel<Gather<TileTable>>, Gather<TileTable>::infer},
      {"EmbeddingLayerNorm", embedding, {i8, i8}, make_kernel<Embedding<Table>>, Embedding<Table>::infer},
      {"EmbeddingLayerNormTiles",
       embedding,
       {i8, i8},
       make_kernel<EmbeddingLayerNormTiles>,
       EmbeddingLayerNormTiles::infer},
      {"SignGather", {id, u8, real}, {f32}, make_kernel<Gather<SignTable>>, Gather<SignTable>::infer},
      {"SignEmbeddingLayerNorm",
       sign_embedding,
       {i8, i8},
       make_kernel<Embedding<SignTable>>,
       Embedding<SignTable>::infer},
  };
}

}  // namespace bqc
