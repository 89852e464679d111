// The kernel families, as structs of functions. Every ISA level fills the same structs and gives the same
// bits.
//
// Plain data and fixed-width integers only: this header is compiled with the flags of every level, and inline
// code in it could leak instructions of one level into another.
#pragma once

#include <stdint.h>

namespace bqc {

// How a row of `length` elements is cut: groups of `span`, each of `per_group` blocks of `block` elements
// (the last one may be shorter); `count` blocks in all.
struct Geometry {
  int64_t length, block, span, groups, per_group, count;
};

// Functions of one row. Pointers never overlap.
struct RowKernels {
  // codes [length], exponents [count] of x.
  void (*quantize)(const float* x, const Geometry* g, int bits, int8_t* codes, int8_t* exponents);
  // codes of x under given exponents.
  void (*encode)(const float* x, const int8_t* exponents, const Geometry* g, int bits, int8_t* codes);
  // largest[i] = max(largest[i], |x[i]|), magnitudes as the bits of a float.
  void (*magnitudes)(const float* x, int64_t n, int32_t* largest);
  // exponents [count] of blocks with these magnitudes.
  void (*exponents)(const int32_t* largest, const Geometry* g, int bits, int8_t* exponents);
  void (*dequantize)(const int8_t* codes, const int8_t* exponents, const Geometry* g, float* y);
  // y += dequantised row.
  void (*add_dequantized)(const int8_t* codes, const int8_t* exponents, const Geometry* g, float* y);
  // One row of a table packed as row_u<bits>, to int8 codes [ceil8(columns)].
  void (*unpack_row)(const uint8_t* packed, int bits, int64_t columns, int8_t* codes);
  // One output's lane of n16k4_u<bits> tiles, its first four bytes at `lane`, to int8 codes
  // [ceil16(columns)].
  void (*unpack_lane)(const uint8_t* lane, int bits, int64_t columns, int8_t* codes);
  // One row of a table of signs, bit b of byte j being column j + b * ceil8(columns) / 8, times scale: y =
  // 0 + row, which leaves no -0, or y += row where add is not 0.
  void (*signs)(const uint8_t* packed, float scale, int64_t columns, int add, float* y);
  void (*gelu)(const float* x, int64_t n, int approximate, float* y);
  void (*tanh)(const float* x, int64_t n, float* y);
  // scratch: n integers.
  void (*layer_norm)(const float* x, const float* gamma, const float* beta, float epsilon, int64_t n,
                     int32_t* scratch, float* y);
  // y = finite(x + bias).
  void (*add_bias)(const float* x, const float* bias, int64_t n, float* y);
  // y = finite(x * factor).
  void (*scale)(const float* x, float factor, int64_t n, float* y);
  // keep[i] is -1 or 0; alive 0 treats every score as 0. x is changed.
  void (*softmax)(float* x, const int32_t* keep, int alive, int64_t n, uint8_t* codes);
  int32_t (*sum_codes)(const uint8_t* codes, int64_t n);
  // y = dot * 2**exponent / total.
  void (*context)(const int32_t* dot, const int8_t* exponents, const Geometry* g, int32_t total, float* y);
};

// Products of quantised matrices. Columns come in strips of 16.
struct GemmKernels {
  // Whether `prepare` and `multiply` take weights of so many bits.
  bool (*supports)(int bits);
  // Bytes that `prepare` fills for so many rows of activations.
  int64_t (*panel_bytes)(const Geometry* g, int64_t rows);
  // Activation rows (codes and exponents, with their strides) in the order that `multiply` reads.
  void (*prepare)(const Geometry* g, int bits, const int8_t* codes, int64_t stride, const int8_t* exponents,
                  int64_t exponent_stride, int64_t rows, void* panel);
  // out[row][16 * first ... 16 * last) = sum over blocks of (dot * 2**weight exponent) * 2**activation
  // exponent. weight: n16k4_u<bits> tiles; weight_exponents int8 [count][16 * strips].
  void (*multiply)(const Geometry* g, int bits, const void* panel, int64_t rows, const uint8_t* weight,
                   const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
                   int64_t out_stride);
  // Rows of a key (codes with a stride) as n16k4_u8 tiles; unused outputs are filled with code 0.
  void (*pack_keys)(const int8_t* codes, int64_t stride, int64_t rows, const Geometry* g, uint8_t* tiles);
  // Values [keys][width] as signed tiles [ceil16(width)/16][ceil4(keys)/4][16][4].
  void (*pack_values)(const int8_t* codes, int64_t stride, int64_t keys, int64_t width, int8_t* tiles);
  // out[row][16 * strips] = sum over keys of probabilities [row][ceil4(keys)] times values.
  void (*mix)(const uint8_t* probabilities, int64_t stride, int64_t rows, const int8_t* tiles, int64_t keys,
              int64_t strips, int32_t* out, int64_t out_stride);
};

// A weight of one or two planes of signs: each plane has a scale for every output.
struct SignPlanes {
  const uint8_t* bits;  // n16k16 [count][strips][padded inputs / 16][2][16]
  const float* scales;  // [count][16 * strips]
  int64_t count, strips;
};

// Products with weights made of signs.
struct SignKernels {
  const char* products;  // the instructions of its matrix products
  // Bytes that `prepare` fills at most for so many rows of activations.
  int64_t (*panel_bytes)(const Geometry* g, int64_t rows);
  // As that of GemmKernels; `panel` is aligned to 64 bytes.
  void (*prepare)(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
                  int64_t exponent_stride, int64_t rows, void* panel);
  // out[row][16 * first ... 16 * last) = sum over blocks of (sum over planes of dot * scale) * 2**activation
  // exponent, planes and blocks in order.
  void (*multiply)(const Geometry* g, const void* panel, int64_t rows, const SignPlanes* planes,
                   int64_t first, int64_t last, float* out, int64_t out_stride);
};

// A weight of fp16 numbers in strips n16 [strips][inputs][16]: the numbers, or indices of those of a table.
struct HalfTiles {
  const uint16_t* halves;  // null where there are
  const uint8_t* indices;
  const float* table;  // [256], fp16 numbers widened
  int64_t inputs;
};

constexpr int64_t kHalfPanelRows = 128;

// Products of fp16 numbers.
struct HalfProducts {
  const char* by;  // which instructions
  // At most kHalfPanelRows rows of activations, rounded, in the order that `multiply` reads: at most rows *
  // inputs floats.
  void (*prepare)(const float* x, int64_t inputs, int64_t rows, float* panel);
  // out[row][16 * first ... 16 * last) of as many rows as were prepared.
  void (*multiply)(const float* panel, int64_t rows, const HalfTiles* weight, int64_t first, int64_t last,
                   float* out, int64_t out_stride);
};

struct HalfKernels {
  // y = x rounded to fp16: NaN to 0, beyond the largest to that.
  void (*round)(const float* x, int64_t n, float* y);
  void (*widen)(const uint16_t* x, int64_t n, float* y);
  // Summed in float32, one sum an output and inputs in ascending order.
  HalfProducts products;
};

// One head of a sequence, as its queries see it.
struct FloatHead {
  const float *keys, *values;  // [count][width] of the keys that a mask keeps, sanitized
  int64_t width, count;
  float scale;
  // Not 0 where it hides all: then they are alike, and with them so many of padding, whose values are 0.
  int alike;
  int64_t padding;
};

// Attention of float32 numbers, summed in float32, keys and channels in ascending order.
struct FloatAttentionKernels {
  const char* products;  // the instructions of its products
  // y = x with NaN and subnormal numbers as 0, infinities as the largest number; in place too.
  void (*sanitize)(const float* x, int64_t n, float* y);
  // Floats of scratch memory that `attend` needs.
  int64_t (*memory)(const FloatHead* head);
  // Context [rows][width] of queries, both with a stride.
  void (*attend)(const FloatHead* head, const float* q, int64_t stride, int64_t rows, float* memory,
                 float* out);
};

// A weight of signs for inputs that are signs too.
struct BitTiles {
  const uint8_t* bits;  // n16k64 [strips][ceil64(columns) / 64][8][16]
  const float* scales;  // [16 * strips]
  int64_t columns, strips;
};

// Products of signs with signs. Bits beyond the columns are not read, whatever they are.
struct XnorKernels {
  const char* products;  // the instructions of its matrix products
  // Bytes that `prepare` fills for so many rows of activations.
  int64_t (*panel_bytes)(int64_t columns, int64_t rows);
  // Rows of bits, bit b of byte j being column 8j + b, in the order that `multiply` reads; `panel` is aligned
  // to 64 bytes.
  void (*prepare)(int64_t columns, const uint8_t* bits, int64_t stride, int64_t rows, void* panel);
  // out[row][16 * first ... 16 * last) = 0 + float(columns - 2 * bits that differ) * scale.
  void (*multiply)(const void* panel, int64_t rows, const BitTiles* weight, int64_t first, int64_t last,
                   float* out, int64_t out_stride);
  // bits [ceil8(n) / 8] of what is above 0 in a row, those beyond n clear.
  void (*binarize)(const float* x, int64_t n, uint8_t* bits);
  void (*binarize_codes)(const int8_t* codes, int64_t n, uint8_t* bits);
};

// A weight of which `kept` of every `of` inputs of an output are stored.
struct SparseTiles {
  const uint8_t* tiles;  // n16s4 [strips][bytes of a strip]
  const float* scales;   // [16 * strips]
  int64_t strips;
  int kept, of, bits;  // 2 of 4, 1 of 4, 2 of 8 or 4 of 8; codes of 8 bits (-127 to 127) or 4 (-7 to 7)
};

// Products with N:M-sparse weights.
struct SparseKernels {
  const char* products;  // the instructions of its matrix products
  // As those of SignKernels.
  int64_t (*panel_bytes)(const Geometry* g, int64_t rows);
  void (*prepare)(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
                  int64_t exponent_stride, int64_t rows, void* panel);
  // out[row][16 * first ... 16 * last) = sum over blocks of dot * scale * 2**activation exponent, in order.
  void (*multiply)(const Geometry* g, const void* panel, int64_t rows, const SparseTiles* weight,
                   int64_t first, int64_t last, float* out, int64_t out_stride);
};

struct KernelSet {
  const char* name;
  const char* products;  // the instructions of its matrix products
  const RowKernels* rows;
  const GemmKernels* gemm;
  const SignKernels* signs;
  const XnorKernels* xnor;
  const HalfKernels* half;
  const SparseKernels* sparse;
  const FloatAttentionKernels* float_attention;
};

namespace portable {
extern const KernelSet kKernels;
extern const SignKernels kSigns;
extern const HalfKernels kHalf;
extern const XnorKernels kXnor;
extern const SparseKernels kSparse;
extern const FloatAttentionKernels kFloatAttention;
}  // namespace portable
#if defined(BQC_X86)
namespace avx2 {
extern const KernelSet kKernels;
extern const SignKernels kSigns;
extern const HalfKernels kHalf;
extern const XnorKernels kXnor;
extern const SparseKernels kSparse;
extern const FloatAttentionKernels kFloatAttention;
}  // namespace avx2
namespace avx512 {
extern const KernelSet kKernels;
extern const SignKernels kSigns;
extern const HalfKernels kHalf;
extern const XnorKernels kXnor;
extern const SparseKernels kSparse;
extern const FloatAttentionKernels kFloatAttention;
}  // namespace avx512
namespace avx512_vbmi {
extern const KernelSet kKernels;
extern const SignKernels kSigns;
extern const HalfKernels kHalf;
extern const XnorKernels kXnor;
extern const SparseKernels kSparse;
}  // namespace avx512_vbmi
namespace avx512_bf16 {
extern const HalfProducts kHalf;  // in bfloat16: other bits than those of every level
}  // namespace avx512_bf16
#elif defined(BQC_ARM)
namespace neon {
extern const KernelSet kKernels;
extern const XnorKernels kXnor;
}  // namespace neon
namespace neon_dot {
extern const KernelSet kKernels;
}
#endif

}  // namespace bqc
