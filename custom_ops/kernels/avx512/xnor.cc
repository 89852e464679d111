// Signs by signs with VPOPCNTDQ: xor, vpopcntd and vpaddd take 32 inputs of 16 outputs.
//
// A tile of n16k64 has byte j of all 16 outputs together; vpermb puts four bytes of an output side by side,
// once for all rows that are multiplied at once. A step is then those three instructions a row, whose inputs
// vpxord broadcasts and whose counts stay in a register.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512_vbmi {

#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

// Uses what xnor.inc has.
#include "kernels/avx512/bits.inc"

namespace {

constexpr int kMaxRows = 16;  // that are multiplied at once
constexpr int64_t kTileInputs = 64, kTileBytes = 128;

inline int64_t tiles_of(int64_t columns) { return padded(columns, kTileInputs) / kTileInputs; }

// A panel: inputs of a row tile interleaved by 32 [row tile][tiles][2][rows][4], those beyond the columns 0.
int64_t panel_bytes(int64_t columns, int64_t rows) { return rows * tiles_of(columns) * kTileInputs / 8; }

// Words of 32 inputs of a row from the first'th on, `stride` bytes apart.
void prepare_words(int64_t columns, const uint8_t* row, int64_t first, uint8_t* to, int64_t stride) {
  const int64_t words = 2 * tiles_of(columns), whole = columns / 32;
  for (int64_t i = first; i < whole; ++i) __builtin_memcpy(to + i * stride, row + 4 * i, 4);
  for (int64_t j = 4 * whole; j < 4 * words; ++j) {
    const uint8_t kept = kept_bits(columns, j);
    to[j / 4 * stride + j % 4] = kept ? row[j] & kept : 0;
  }
}

// Words of four rows, a multiple of four words of each.
void transpose_words(const uint8_t* row, int64_t row_stride, int64_t words, uint8_t* to, int64_t stride) {
  for (int64_t i = 0; i < words; i += 4) {
    __m128i x[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      x[r] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + r * row_stride + 4 * i));
    }
    const __m128i a = _mm_unpacklo_epi32(x[0], x[1]), b = _mm_unpacklo_epi32(x[2], x[3]),
                  c = _mm_unpackhi_epi32(x[0], x[1]), d = _mm_unpackhi_epi32(x[2], x[3]);
    const __m128i y[4] = {_mm_unpacklo_epi64(a, b), _mm_unpackhi_epi64(a, b), _mm_unpacklo_epi64(c, d),
                          _mm_unpackhi_epi64(c, d)};
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (i + j) * stride), y[j]);
  }
}

void prepare(int64_t columns, const uint8_t* bits, int64_t stride, int64_t rows, void* panel) {
  const int64_t row_bytes = panel_bytes(columns, 1), fours = columns / 32 / 4 * 4;
  each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
    uint8_t* to = static_cast<uint8_t*>(panel) + top * row_bytes;
    for (int64_t r = 0; r < some; ++r) {
      const bool four = r / 4 * 4 + 4 <= some;
      const uint8_t* row = bits + (top + r) * stride;
      if (four && r % 4 == 0) transpose_words(row, stride, fours, to + 4 * r, 4 * some);
      prepare_words(columns, row, four ? fours : 0, to + 4 * r, 4 * some);
    }
  });
}

// kOrder.of[4n + i]: where byte i of output n is in half a tile.
struct Order {
  uint8_t of[64];

  constexpr Order() : of() {
    for (int n = 0; n < 16; ++n) {
      for (int i = 0; i < 4; ++i) of[4 * n + i] = static_cast<uint8_t>(16 * i + n);
    }
  }
};
alignas(64) constexpr Order kOrder;

inline __m512i broadcast(const uint8_t* four) {
  int32_t word;
  __builtin_memcpy(&word, four, 4);
  return _mm512_set1_epi32(word);
}

// A tile of which inputs beyond the columns are 0, as they are in panels; `left` of its inputs are columns.
inline void cut(const uint8_t* tile, int64_t left, uint8_t* to) {
#pragma GCC unroll 8
  for (int j = 0; j < 8; ++j) {
    const __m128i w = _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile) + j);
    const __m128i kept = _mm_set1_epi8(static_cast<char>(kept_bits(left, j)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to) + j, _mm_and_si128(w, kept));
  }
}

// Rows times 16 outputs; `last` is the strip's cut tile where the columns do not fill it.
template <int Rows>
void product(const uint8_t* x, int64_t columns, const uint8_t* strip, const uint8_t* last,
             const float* scales, float* out, int64_t out_stride) {
  const int64_t tiles = tiles_of(columns), whole = columns / kTileInputs;
  const __m512i order = _mm512_load_si512(kOrder.of);
  __m512i counts[Rows];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) counts[r] = _mm512_setzero_si512();
  const auto load = [&](int64_t tile, int64_t half) {
    const uint8_t* at = tile < whole ? strip + tile * kTileBytes : last;
    return _mm512_permutexvar_epi8(order, _mm512_loadu_si512(at + 64 * half));
  };
  // Weights are put in order one step ahead: what waits for them would fill the queues of the CPU.
  __m512i ahead = load(0, 0);
  for (int64_t i = 0; i < tiles; ++i) {
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half, x += 4 * Rows) {
      const __m512i outputs = ahead;
      ahead = load(i + half, 1 - half);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) {
        const __m512i differ = _mm512_xor_si512(outputs, broadcast(x + 4 * r));
        counts[r] = _mm512_add_epi32(counts[r], _mm512_popcnt_epi32(differ));
      }
    }
  }
  // The same bits as without fusing: the dots are exact, and a product that is not 0 never rounds to 0, of
  // which the sum with +0 would have another sign.
  const __m512 all = _mm512_set1_ps(static_cast<float>(columns)), scale = _mm512_loadu_ps(scales);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const __m512 dot = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(counts[r]), _mm512_set1_ps(2.0f), all);
    _mm512_storeu_ps(out + r * out_stride, _mm512_fmadd_ps(dot, scale, _mm512_setzero_ps()));
  }
}

void multiply(const void* panel, int64_t rows, const BitTiles* weight, int64_t first, int64_t last,
              float* out, int64_t out_stride) {
  static constexpr decltype(&product<1>) kTable[kMaxRows] = {
      product<1>, product<2>,  product<3>,  product<4>,  product<5>,  product<6>,  product<7>,  product<8>,
      product<9>, product<10>, product<11>, product<12>, product<13>, product<14>, product<15>, product<16>};
  const int64_t columns = weight->columns, row_bytes = panel_bytes(columns, 1), left = columns % kTileInputs;
  alignas(64) uint8_t last_tile[kTileBytes] = {};
  for (int64_t s = first; s < last; ++s) {
    const uint8_t* strip = weight->bits + s * strip_bytes(columns);
    if (left) cut(strip + strip_bytes(columns) - kTileBytes, left, last_tile);
    each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
      kTable[some - 1](static_cast<const uint8_t*>(panel) + top * row_bytes, columns, strip, last_tile,
                       weight->scales + 16 * s, out + top * out_stride + 16 * s, out_stride);
    });
  }
}

}  // namespace

extern const XnorKernels kXnor = {"vpopcntd", panel_bytes,     prepare,
                                  multiply,   binarize_floats, binarize_bytes};

}  // namespace bqc::avx512_vbmi
