// AVX2. Weights of 8 bits are widened to 16 bits and multiplied by vpmaddwd, which cannot saturate here;
// vpmaddubsw would: 255 * 127 * 2 exceeds 16 bits. Smaller weights are left to it.
#include "kernels/kernels.h"

#include <immintrin.h>

#include "kernels/constants.h"

namespace bqc::avx2 {

#include "kernels/pack.inc"
#include "kernels/rows.inc"

namespace {

constexpr int kMaxRows = 2;          // of `mix`
constexpr int64_t kRowsAtOnce = 64;  // that use a piece of unpacked weights

// Sums of 16 outputs in order, from four accumulators of even and odd sums.
inline void add_pairs(const __m256i (&acc)[4], __m256i* low, __m256i* high) {
  *low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[0], acc[1]), 0xd8);
  *high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[2], acc[3]), 0xd8);
}

// A panel: activations [rows][padded inputs], then corrections and scales [rows][count]. For weights of 8
// bits the activations are widened to int16, for smaller ones they stay bytes (in half of that room).
inline int64_t codes_bytes(const Geometry& g, int64_t rows) {
  return padded(rows * padded_inputs(g) * 2, 64);
}

int64_t panel_bytes(const Geometry* g, int64_t rows) { return codes_bytes(*g, rows) + 8 * rows * g->count; }

template <class Code>
inline void copy_codes(const int8_t* __restrict codes, int64_t size, int64_t wide, Code* __restrict out) {
  for (int64_t i = 0; i < size; ++i) out[i] = codes[i];
  for (int64_t i = size; i < wide; ++i) out[i] = 0;
}

void prepare(const Geometry* g, int bits, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  int32_t* corrections = reinterpret_cast<int32_t*>(static_cast<char*>(panel) + codes_bytes(*g, rows));
  float* scales = reinterpret_cast<float*>(corrections + rows * g->count);
  const int64_t inputs = padded_inputs(*g);
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = codes + r * stride;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      if (bits == 8) {
        copy_codes(row + start, size, wide, static_cast<int16_t*>(panel) + r * inputs + at);
      } else {
        copy_codes(row + start, size, wide, static_cast<int8_t*>(panel) + r * inputs + at);
      }
      corrections[r * g->count + i] = -(1 << (bits - 1)) * sum_of(row + start, size);
      scales[r * g->count + i] = power_of_two(exponents[r * exponent_stride + i]);
    });
  }
}

// How weights of so many bits are multiplied. `dot` adds up the products of rows of activations with `inputs`
// weights of a strip, [inputs / 4][16 outputs][4 inputs], to two registers of eight outputs each. Weights of
// 8 bits lie like that in the file; for smaller ones `unpack` makes 16 inputs of it, those from `at`, of a
// strip of `inputs`.
template <int Bits>
struct Product;

template <>
struct Product<8> {
  using Code = int16_t;
  static constexpr int kRows = 2;  // eight accumulators

  // Accumulators hold, for every output, the sums of even and odd pairs of inputs side by side.
  template <int Rows>
  static void dot(const uint8_t* w, int64_t inputs, const Code* x, int64_t stride, __m256i (&out)[Rows][2]) {
    __m256i sums[Rows][4];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) sums[r][q] = _mm256_setzero_si256();
    }
    for (int64_t k = 0; k < inputs; k += 4) {
      __m256i four[Rows];
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        int64_t codes;
        __builtin_memcpy(&codes, x + r * stride + k, 8);
        four[r] = _mm256_set1_epi64x(codes);
      }
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) {
        const __m256i weights =
            _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + 16 * k) + q));
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          sums[r][q] = _mm256_add_epi32(sums[r][q], _mm256_madd_epi16(weights, four[r]));
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) add_pairs(sums[r], &out[r][0], &out[r][1]);
  }
};

// Small weights as unsigned bytes: vpmaddubsw adds pairs of products in 16 bits, and `Steps` of its results
// fit there together.
template <int Steps, int RowsAtOnce>
struct SmallProduct {
  using Code = int8_t;
  static constexpr int kRows = RowsAtOnce;

  template <int Rows>
  static void dot(const uint8_t* w, int64_t inputs, const Code* x, int64_t stride, __m256i (&out)[Rows][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) out[r][0] = out[r][1] = _mm256_setzero_si256();
    for (int64_t start = 0; start < inputs; start += 4 * Steps) {
      const int64_t end = inputs - start < 4 * Steps ? inputs : start + 4 * Steps;
      __m256i sums[Rows][2];
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) sums[r][0] = sums[r][1] = _mm256_setzero_si256();
      for (int64_t k = start; k < end; k += 4) {
        const __m256i* weights = reinterpret_cast<const __m256i*>(w + 16 * k);
        const __m256i low = _mm256_load_si256(weights), high = _mm256_load_si256(weights + 1);
#pragma GCC unroll 4
        for (int r = 0; r < Rows; ++r) {
          int32_t codes;
          __builtin_memcpy(&codes, x + r * stride + k, 4);
          const __m256i four = _mm256_set1_epi32(codes);
          sums[r][0] = _mm256_add_epi16(sums[r][0], _mm256_maddubs_epi16(low, four));
          sums[r][1] = _mm256_add_epi16(sums[r][1], _mm256_maddubs_epi16(high, four));
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) {
        out[r][0] = _mm256_add_epi32(out[r][0], _mm256_madd_epi16(sums[r][0], ones));
        out[r][1] = _mm256_add_epi32(out[r][1], _mm256_madd_epi16(sums[r][1], ones));
      }
    }
  }
};

inline __m256i low_nibbles(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }

// 32 * 2 * 3 * 128 = 24576
template <>
struct Product<2> : SmallProduct<32, 4> {
  static void unpack(const uint8_t* strip, int64_t, int64_t at, uint8_t* out) {
    const __m256i* from = reinterpret_cast<const __m256i*>(strip + at * 4);
    const __m256i pair = _mm256_set1_epi8(3);
    __m256i* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i four = _mm256_loadu_si256(from + i);
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        _mm256_store_si256(to + 2 * t + i, _mm256_and_si256(_mm256_srli_epi16(four, 2 * t), pair));
      }
    }
  }
};

// 16 * 2 * 7 * 128 = 28672
template <>
struct Product<3> : SmallProduct<16, 4> {
  static void unpack(const uint8_t* strip, int64_t inputs, int64_t at, uint8_t* out) {
    Product<2>::unpack(strip, inputs, at, out);
    // A tile of single bits serves 32 inputs.
    const __m256i* high = reinterpret_cast<const __m256i*>(strip + inputs * 4 + at / 32 * 64);
    const __m128i used = _mm_cvtsi32_si128(at % 32 ? 4 : 0);
    const __m256i single = _mm256_set1_epi8(4);
    __m256i* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i four = _mm256_srl_epi16(_mm256_loadu_si256(high + i), used);
      const __m256i parts[4] = {_mm256_slli_epi16(four, 2), _mm256_slli_epi16(four, 1), four,
                                _mm256_srli_epi16(four, 1)};
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        const __m256i weights = _mm256_load_si256(to + 2 * t + i);
        _mm256_store_si256(to + 2 * t + i, _mm256_or_si256(weights, _mm256_and_si256(parts[t], single)));
      }
    }
  }
};

// 8 * 2 * 15 * 128 = 30720
template <>
struct Product<4> : SmallProduct<8, 4> {
  static void unpack(const uint8_t* strip, int64_t, int64_t at, uint8_t* out) {
    const __m256i* from = reinterpret_cast<const __m256i*>(strip + at * 8);
    __m256i* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i two = _mm256_loadu_si256(from + i);
      _mm256_store_si256(to + i / 2 * 4 + i % 2, low_nibbles(two));
      _mm256_store_si256(to + i / 2 * 4 + i % 2 + 2, low_nibbles(_mm256_srli_epi16(two, 4)));
    }
  }
};

// 2 * 2 * 63 * 128 = 32256
template <>
struct Product<6> : SmallProduct<2, 2> {
  static void unpack(const uint8_t* strip, int64_t inputs, int64_t at, uint8_t* out) {
    Product<4>::unpack(strip, inputs, at, out);
    const uint8_t* high = strip + inputs * 8 + at * 4;
    const __m256i top = _mm256_set1_epi8(0x30);
    __m256i* to = reinterpret_cast<__m256i*>(out);
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) {
      const __m256i four = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(high) + i);
      const __m256i parts[4] = {_mm256_slli_epi16(four, 4), _mm256_slli_epi16(four, 2), four,
                                _mm256_srli_epi16(four, 2)};
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        const __m256i weights = _mm256_load_si256(to + 2 * t + i);
        _mm256_store_si256(to + 2 * t + i, _mm256_or_si256(weights, _mm256_and_si256(parts[t], top)));
      }
    }
  }
};

inline __m256 weight_scale(const int8_t* e) {
  const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(e)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(wide, _mm256_set1_epi32(127)), 23));
}

inline void flush(float* y, bool first, __m256i dot, __m256 weight, __m256 scale) {
  const __m256 part = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), weight), scale);
  const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
  _mm256_storeu_ps(y, _mm256_add_ps(before, part));
}

// Some rows of a panel, and where their products go.
template <class Code>
struct Rows {
  const Code* codes;
  int64_t inputs;
  const int32_t* corrections;  // [rows][count]
  const float* scales;
  int64_t count;
  float* out;
  int64_t out_stride;
};

// Adds a block's products to the outputs of N rows from `top`.
template <int N, class Code>
inline void finish_block(const Rows<Code>& rows, int64_t top, int64_t block, const __m256i (&dots)[N][2],
                         const int8_t* exponents) {
  const __m256 low = weight_scale(exponents), high = weight_scale(exponents + 8);
#pragma GCC unroll 4
  for (int r = 0; r < N; ++r) {
    const int64_t row = top + r, at = row * rows.count + block;
    const __m256i correction = _mm256_set1_epi32(rows.corrections[at]);
    const __m256 scale = _mm256_set1_ps(rows.scales[at]);
    float* y = rows.out + row * rows.out_stride;
    flush(y, block == 0, _mm256_add_epi32(dots[r][0], correction), low, scale);
    flush(y + 8, block == 0, _mm256_add_epi32(dots[r][1], correction), high, scale);
  }
}

// Rows [first, last) in tiles: many(first of N rows), then one(row) for what is left.
template <int N, class Many, class One>
inline void each_tile(int64_t first, int64_t last, const Many& many, const One& one) {
  for (; first + N <= last; first += N) many(first);
  for (; first < last; ++first) one(first);
}

// N rows times a strip of 8-bit weights, which are read in place.
template <int N>
void multiply_rows(const Geometry& g, const Rows<int16_t>& rows, int64_t top, const uint8_t* strip,
                   const int8_t* exponents, int64_t exponent_stride) {
  const int16_t* codes = rows.codes + top * rows.inputs;
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    __m256i dots[N][2];
    Product<8>::dot<N>(strip + at * 16, wide, codes + at, rows.inputs, dots);
    finish_block<N>(rows, top, i, dots, exponents + i * exponent_stride);
  });
}

// Unpacked weights of `inputs` inputs of a block from the padded input `at`: its first ones, its last, or
// some between.
struct Piece {
  const uint8_t* weights;
  int64_t block, at, inputs;
  bool begin, end;
};

// N rows from `top` times a piece; `carried` [N][16] holds the sums of a block of several pieces. Not
// inlined, so that the accumulators have all registers.
template <int Bits, int N>
__attribute__((noinline)) void multiply_piece(const Rows<int8_t>& rows, const Piece& piece, int64_t top,
                                              const int8_t* exponents, int32_t* carried) {
  __m256i dots[N][2];
  Product<Bits>::template dot<N>(piece.weights, piece.inputs, rows.codes + top * rows.inputs + piece.at,
                                 rows.inputs, dots);
  __m256i* sums = reinterpret_cast<__m256i*>(carried);
  if (!piece.begin) {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) dots[i / 2][i % 2] = _mm256_add_epi32(dots[i / 2][i % 2], sums[i]);
  }
  if (piece.end) {
    finish_block<N>(rows, top, piece.block, dots, exponents);
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) sums[i] = dots[i / 2][i % 2];
  }
}

// Rows [first, last), at most kRowsAtOnce, times one strip of small weights: a piece of them is unpacked at a
// time, and stays in the first cache for all the rows.
template <int Bits>
void multiply_strip(const Geometry& g, const Rows<int8_t>& rows, int64_t first, int64_t last,
                    const uint8_t* strip, const int8_t* exponents, int64_t exponent_stride) {
  using P = Product<Bits>;
  constexpr int64_t kPiece = 128;  // inputs
  alignas(64) uint8_t unpacked[kPiece * 16];
  alignas(64) int32_t carried[kRowsAtOnce * 16];
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    const int8_t* e = exponents + i * exponent_stride;
    for (int64_t from = 0; from < wide; from += kPiece) {
      const int64_t some = wide - from < kPiece ? wide - from : kPiece;
      for (int64_t k = 0; k < some; k += 16) {
        P::unpack(strip, rows.inputs, at + from + k, unpacked + k * 16);
      }
      const Piece piece = {unpacked, i, at + from, some, from == 0, from + some == wide};
      each_tile<P::kRows>(
          first, last,
          [&](int64_t top) {
            multiply_piece<Bits, P::kRows>(rows, piece, top, e, carried + (top - first) * 16);
          },
          [&](int64_t top) { multiply_piece<Bits, 1>(rows, piece, top, e, carried + (top - first) * 16); });
    }
  });
}

template <int Bits>
void multiply_bits(const Geometry& g, const void* panel, int64_t rows, const uint8_t* weight,
                   const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
                   int64_t out_stride) {
  using Code = typename Product<Bits>::Code;
  const int32_t* corrections =
      reinterpret_cast<const int32_t*>(static_cast<const char*>(panel) + codes_bytes(g, rows));
  const float* scales = reinterpret_cast<const float*>(corrections + rows * g.count);
  const int64_t inputs = padded_inputs(g), strip_bytes = tile_bytes(inputs, Bits);
  for (int64_t s = first; s < last; ++s) {
    const Rows<Code> all = {
        static_cast<const Code*>(panel), inputs, corrections, scales, g.count, out + s * 16, out_stride};
    const uint8_t* strip = weight + s * strip_bytes;
    const int8_t* exponents = weight_exponents + s * 16;
    if constexpr (Bits == 8) {
      each_tile<Product<8>::kRows>(
          0, rows,
          [&](int64_t top) { multiply_rows<Product<8>::kRows>(g, all, top, strip, exponents, strips * 16); },
          [&](int64_t top) { multiply_rows<1>(g, all, top, strip, exponents, strips * 16); });
    } else {
      for (int64_t top = 0; top < rows; top += kRowsAtOnce) {
        const int64_t bottom = rows - top < kRowsAtOnce ? rows : top + kRowsAtOnce;
        multiply_strip<Bits>(g, all, top, bottom, strip, exponents, strips * 16);
      }
    }
  }
}

bool supports(int bits) { return bits == 8 || bits == 6 || bits == 4 || bits == 3 || bits == 2; }

void multiply(const Geometry* g, int bits, const void* panel, int64_t rows, const uint8_t* weight,
              const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
              int64_t out_stride) {
  const auto run = bits == 8   ? multiply_bits<8>
                   : bits == 6 ? multiply_bits<6>
                   : bits == 4 ? multiply_bits<4>
                   : bits == 3 ? multiply_bits<3>
                               : multiply_bits<2>;
  run(*g, panel, rows, weight, weight_exponents, strips, first, last, out, out_stride);
}

template <int Rows>
inline void mix_tile(const uint8_t* p, int64_t stride, const int8_t* tile, int64_t steps, int32_t* out,
                     int64_t out_stride) {
  __m256i acc[Rows][4];
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) acc[r][q] = _mm256_setzero_si256();
  }
  for (int64_t k = 0; k < steps; ++k) {
    __m256i four[Rows];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      int32_t word;
      __builtin_memcpy(&word, p + r * stride + 4 * k, 4);
      four[r] = _mm256_cvtepu8_epi16(_mm_set1_epi32(word));
    }
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const __m256i v =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(tile + k * 64) + q));
#pragma GCC unroll 4
      for (int r = 0; r < Rows; ++r) acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(v, four[r]));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    __m256i low, high;
    add_pairs(acc[r], &low, &high);
    __m256i* to = reinterpret_cast<__m256i*>(out + r * out_stride);
    _mm256_storeu_si256(to, low);
    _mm256_storeu_si256(to + 1, high);
  }
}

void mix(const uint8_t* probabilities, int64_t stride, int64_t rows, const int8_t* tiles, int64_t keys,
         int64_t strips, int32_t* out, int64_t out_stride) {
  const int64_t steps = padded(keys, 4) / 4;
  for (int64_t s = 0; s < strips; ++s) {
    for (int64_t top = 0; top < rows; top += kMaxRows) {
      const auto run = rows - top >= kMaxRows ? mix_tile<kMaxRows> : mix_tile<1>;
      run(probabilities + top * stride, stride, tiles + s * steps * 64, steps,
          out + top * out_stride + s * 16, out_stride);
    }
  }
}

constexpr GemmKernels kGemm = {supports, panel_bytes, prepare, multiply, pack_keys, pack_values, mix};

}  // namespace

#include "kernels/avx2/rows.inc"

extern const KernelSet kKernels = {
    "avx2",          "vpmaddwd on 16-bit codes", &kFastRows, &kGemm, &kSigns, &kXnor, &kHalf, &kSparse,
    &kFloatAttention};

}  // namespace bqc::avx2
