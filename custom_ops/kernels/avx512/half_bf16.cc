// fp16 weights multiplied in bfloat16, where BQC_FP16_ARITHMETIC asks for it: vdpbf16ps adds two products to
// a sum of float32. Factors lose three of eleven bits, and subnormal ones count as 0, so that results are
// other ones than those of every other level.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512_bf16 {

#include "kernels/avx512/fp16_table.inc"
#include "kernels/avx512/half_numbers.inc"

namespace {

constexpr int kMostRows = 12;         // times two strips, 24 accumulators
constexpr int64_t kTileInputs = 256;  // of a strip, at once: even

// A panel has rows of pairs of neighbouring inputs, each pair a word.
inline int64_t pairs_of(int64_t inputs) { return (inputs + 1) / 2; }

// Words from one row to the next. Rows a power of two apart would share few lines of the first cache.
inline int64_t stride_of(int64_t inputs) {
  const int64_t pairs = pairs_of(inputs);
  return pairs % 256 == 0 ? pairs + 16 : pairs;
}

void prepare(const float* x, int64_t inputs, int64_t rows, float* panel) {
  const int64_t stride = stride_of(inputs);
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * inputs;
    float* to = panel + row * stride;
    for (int64_t k = 0; k < inputs; k += 32) {
      const int64_t left = inputs - k;
      const __m512bh words =
          _mm512_cvtne2ps_pbh(within(_mm512_maskz_loadu_ps(first_of_16(left - 16), from + k + 16)),
                              within(_mm512_maskz_loadu_ps(first_of_16(left), from + k)));
      _mm512_mask_storeu_epi32(to + k / 2, first_of_16(pairs_of(left)), reinterpret_cast<__m512i>(words));
    }
  }
}

// Weights of two inputs, those of an output side by side.
inline __m512bh joined(__m512 first, __m512 second) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                         22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return reinterpret_cast<__m512bh>(
      _mm512_permutexvar_epi16(order, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first))));
}

// The weights of `inputs` inputs as pairs, in a tile of [ceil2(inputs) / 2][16] words.
inline void narrow(const uint16_t* halves, int64_t inputs, __m512bh* tile) {
  for (int64_t p = 0; p < inputs / 2; ++p)
    tile[p] = joined(widened(halves + p * 32), widened(halves + p * 32 + 16));
  if (inputs % 2) tile[inputs / 2] = joined(widened(halves + (inputs - 1) * 16), _mm512_setzero_ps());
}

// What is asked for while a tile is multiplied: of each strip some bytes a pair.
struct Next {
  const char* from;
  int64_t stride, step;
};

// Adds to sums [S][R][16], strips sum_stride floats apart, or where `more` is false to zeros.
template <int R, int S>
void multiply_tile(const float* x, int64_t stride, int64_t pairs, const __m512bh* const* tiles, bool more,
                   const Next& next, float* sums, int64_t sum_stride) {
  __m512 acc[R][S];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      acc[r][s] = more ? _mm512_loadu_ps(sums + s * sum_stride + r * 16) : _mm512_setzero_ps();
    }
  }
  for (int64_t p = 0; p < pairs; ++p) {
    __m512bh w[S];
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) {
      w[s] = tiles[s][p];
      __builtin_prefetch(next.from + s * next.stride + p * next.step, 0, 3);
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const auto factors = reinterpret_cast<__m512bh>(_mm512_set1_ps(x[r * stride + p]));
#pragma GCC unroll 2
      for (int s = 0; s < S; ++s) acc[r][s] = _mm512_dpbf16_ps(acc[r][s], w[s], factors);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int s = 0; s < S; ++s) _mm512_storeu_ps(sums + s * sum_stride + r * 16, acc[r][s]);
  }
}

using MultiplyTile = void (*)(const float*, int64_t, int64_t, const __m512bh* const*, bool, const Next&,
                              float*, int64_t);

template <int S, int R = kMostRows>
inline MultiplyTile product_of(int rows) {
  if constexpr (R > 1) {
    return rows == R ? multiply_tile<R, S> : product_of<S, R - 1>(rows);
  } else {
    return multiply_tile<1, S>;
  }
}

// The tile after that of S strips from `strip` and of inputs from `at` on, or itself where it is the last.
inline Next following(const HalfTiles& weight, int64_t S, int64_t strip, int64_t at, int64_t last) {
  const bool more = at + kTileInputs < weight.inputs, beside = strip + 2 * S <= last;
  const int64_t from = (strip * weight.inputs + at) * 16;
  const int64_t then = more ? from + kTileInputs * 16 : beside ? (strip + S) * weight.inputs * 16 : from;
  const int64_t bytes = weight.halves ? 2 : 1;
  const void* elements = weight.halves ? static_cast<const void*>(weight.halves) : weight.indices;
  return {static_cast<const char*>(elements) + then * bytes, weight.inputs * 16 * bytes, 32 * bytes};
}

// S strips from `strip` on, all rows.
template <int S>
void multiply_strips(const float* panel, int64_t rows, const HalfTiles& weight, const Table& table,
                     int64_t strip, int64_t last, float* out, int64_t out_stride) {
  __m512bh narrowed[S][kTileInputs / 2];
  alignas(64) float sums[S * kHalfPanelRows * 16];
  const __m512bh* tiles[S];
  for (int s = 0; s < S; ++s) tiles[s] = narrowed[s];
  const int64_t stride = stride_of(weight.inputs), groups = (rows + kMostRows - 1) / kMostRows;
  for (int64_t at = 0; at < weight.inputs; at += kTileInputs) {
    const int64_t inputs = weight.inputs - at < kTileInputs ? weight.inputs - at : kTileInputs;
    for (int s = 0; s < S; ++s) {
      const int64_t from = ((strip + s) * weight.inputs + at) * 16;
      if (weight.halves) {
        narrow(weight.halves + from, inputs, narrowed[s]);
      } else {
        alignas(64) uint16_t halves[kTileInputs * 16];
        look_up(table, weight.indices + from, inputs * 16, halves);
        narrow(halves, inputs, narrowed[s]);
      }
    }
    const Next next = following(weight, S, strip, at, last);
    for (int64_t i = 0; i < groups; ++i) {
      const int64_t first = rows * i / groups, some = rows * (i + 1) / groups - first;
      product_of<S>(static_cast<int>(some))(panel + first * stride + at / 2, stride, pairs_of(inputs), tiles,
                                            at > 0, next, sums + first * 16, rows * 16);
    }
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int s = 0; s < S; ++s) {
      _mm512_storeu_ps(out + row * out_stride + (strip + s) * 16,
                       _mm512_load_ps(sums + (s * rows + row) * 16));
    }
  }
}

void multiply(const float* panel, int64_t rows, const HalfTiles* weight, int64_t first, int64_t last,
              float* out, int64_t out_stride) {
  const Table table = table_of(*weight);
  int64_t s = first;
  for (; s + 2 <= last; s += 2) multiply_strips<2>(panel, rows, *weight, table, s, last, out, out_stride);
  if (s < last) multiply_strips<1>(panel, rows, *weight, table, s, last, out, out_stride);
}

}  // namespace

extern const HalfProducts kHalf = {"vdpbf16ps on fp16 rounded to bfloat16", prepare, multiply};

}  // namespace bqc::avx512_bf16
