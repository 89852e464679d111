// What several operators share: checked block geometry, scratch memory, how work is shared out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bqc_ort.h"
#include "kernels/kernels.h"

namespace bqc {

// Longest row, in elements: sums of squares of 21-bit integers over it fit 64 bits.
constexpr int64_t kMaxLength = int64_t{1} << 22;
// Most products of 8-bit codes that one 32-bit sum can hold.
constexpr int64_t kMaxSum = 65536;

// Blocks of a row; group 0 is the whole row. Throws Error as formats/geometry.py does, and for a row beyond
// kMaxLength.
Geometry make_geometry(int64_t length, int64_t block, int64_t group);

// Number of blocks where the attributes make sense, otherwise -1.
int64_t block_count(int64_t length, int64_t block, int64_t group);

// The attributes of a quantisation.
struct Format {
  int bits = 8;
  int64_t block = 0, group = 0;

  // From the attributes PREFIXbits, PREFIXblock, PREFIXgroup.
  static Format from(const Node& node, const std::string& prefix, bool grouped = true);
};

int checked_bits(int64_t bits, const std::string& name);
// The same for weights and tables, which may have 3 and 2.
int checked_weight_bits(int64_t bits, const std::string& name);

// Throws unless codes [..., length] have exponents [..., count] of equal leading dimensions.
void check_pair(const Tensor& codes, const Tensor& exponents, const Geometry& g, const char* what);

// Throws where a stored exponent is -127 or -128, for which there is no power of two.
void check_exponents(const Tensor& exponents, const char* what);

// Throws where a number is infinite or none.
void check_finite(const Tensor& numbers, const char* what);
// A number of a constant of float32 or float16 numbers.
float real_at(const Tensor& numbers, int64_t i);

// A constant input of rank 1: a bias, or a factor or term of a norm. float32 numbers are read where they lie,
// float16 ones are widened once.
class Numbers {
 public:
  Numbers(const Node& node, size_t index, const char* what);
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;

  int64_t count() const { return tensor_.count; }
  const float* data() const { return widened_.empty() ? tensor_.as<float>() : widened_.data(); }
  std::string shape() const { return tensor_.shape(); }

 private:
  Tensor tensor_;
  std::vector<float> widened_;
};

std::vector<int64_t> with_last(std::vector<int64_t> dims, int64_t last);
std::vector<Dim> with_last(std::vector<Dim> dims, Dim last);
// Product of all dimensions but the last.
int64_t rows_of(const Tensor& x);

// 64-byte-aligned memory of this thread that grows and is kept. A slot belongs to one use at a time: the
// caller's slots may be read by the threads of its parallel loop, which write to theirs only.
enum class Slot { shared, shared2, panel, tile, row, row2, row3, keys, values, codes, exponents, count };
void* scratch_bytes(Slot slot, size_t bytes);
template <class T>
T* scratch(Slot slot, int64_t count) {
  // Too much for an address is too much for the allocator too.
  size_t bytes = 0;
  if (count < 0 || __builtin_mul_overflow(static_cast<size_t>(count), sizeof(T), &bytes)) bytes = SIZE_MAX;
  return static_cast<T*>(scratch_bytes(slot, bytes));
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// Bytes of a row of a table in the layout row_u<bits>.
inline int64_t table_row_bytes(int64_t columns, int bits) {
  return bits == 8 ? columns : round_up(columns, bits == 3 ? 8 : 4) * bits / 8;
}

// Tiles of a strip of so many padded inputs in the layout n16k4_u<bits>.
inline int64_t tile_count(int64_t inputs, int bits) { return ceil_div(inputs * bits, 32); }

// body(first, last) over ranges of [0, n) with at least `least` elements each.
template <class Body>
void parallel_ranges(const Call& call, int64_t n, int64_t least, const Body& body) {
  if (n <= 0) return;
  int64_t parts = n / (least < 1 ? 1 : least);
  const int64_t most = 4 * call.threads();
  parts = parts < 1 ? 1 : parts > most ? most : parts;
  call.parallel(parts, [&](int64_t i) { body(n * i / parts, n * (i + 1) / parts); });
}

// Shape inference of a quantised output pair shaped like `like` with a last dimension of `columns`.
void infer_quantized(const Inference& node, const std::vector<Dim>& like, Dim columns,
                     const std::string& prefix);

}  // namespace bqc
