// Weights of signs by table lookup. For every four inputs x of a row there is a table of 16 bytes: entry e is
// the sum of max(x_b, 0) where bit b of e is set and of max(-x_b, 0) where not. The products with four signs
// are twice that less |x_0| + ... + |x_3|, so a block's sum E of entries gives its dot = 2 E - sum |x|.
//
// vpshufb looks up 16 outputs in two tables at once. A sum of entries is at most the sum of its inputs'
// magnitudes, whatever the signs; entries of a few tiles are added as bytes where that fits one, then
// widened. Rows whose codes are too large for one tile in a byte are taken for two, of the codes' high and
// low halves.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx2 {

#include "kernels/blocks.inc"

namespace {

constexpr int kLanes = 4;              // rows of tables that are multiplied at once
constexpr int kMostTogether = 4;       // tiles that are added up as bytes
constexpr int64_t kTileTables = 64;    // bytes of a tile's four tables
constexpr int64_t kPiece = 12;         // tiles whose products fit 16 bits: 12 * 16 * 128 = 24576
constexpr int64_t kWindow = 48;        // tiles whose tables stay in the first cache ...
constexpr int64_t kStripsAtOnce = 32;  // ... for so many strips

// At most kPiece tiles of a block.
struct Piece {
  int64_t block, tile, tiles;
  bool end;  // of the block
};

// What holds for all rows of a panel.
struct Facts {
  int64_t pieces;
  int32_t split;     // 1 where rows are taken for two
  int32_t together;  // tiles whose entries are added as bytes
};

// Where the parts of a panel begin: facts; pieces; scales [rows][blocks]; corrections [rows][pieces], of 16
// bits; tables, which for rows that are multiplied at once lie as [tiles][rows][high and low, if split][2
// nibbles][2 halves of the tile][16].
struct Offsets {
  int64_t pieces, scales, corrections, tables, end;

  Offsets(const Geometry& g, int64_t rows) {
    const int64_t tiles = padded_inputs(g) / 16, most = g.count + tiles / kPiece;
    pieces = 64;
    scales = pieces + most * static_cast<int64_t>(sizeof(Piece));
    corrections = scales + 4 * rows * g.count;
    tables = padded(corrections + 2 * rows * most, 64);
    end = tables + 2 * rows * tiles * kTileTables;
  }
};

int64_t panel_bytes(const Geometry* g, int64_t rows) { return Offsets(*g, rows).end; }

int64_t cut_blocks(const Geometry& g, Piece* pieces) {
  int64_t n = 0;
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    const int64_t tile = at / 16, tiles = wide / 16;
    for (int64_t from = 0; from < tiles; from += kPiece) {
      const int64_t some = tiles - from < kPiece ? tiles - from : kPiece;
      pieces[n++] = {i, tile + from, some, from + some == tiles};
    }
  });
  return n;
}

// Calls body(piece, tile, its 16 codes, whether it ends the piece).
template <class Body>
inline void each_tile(const Geometry& g, const int8_t* row, const Body& body) {
  int64_t piece = 0;
  each_padded_block(g, [&](int64_t, int64_t start, int64_t size, int64_t at, int64_t wide) {
    for (int64_t k = 0; k < wide; k += 16) {
      const int8_t* x = row + start + k;
      alignas(16) int8_t codes[16] = {};
      if (size - k < 16) {
        for (int64_t j = 0; j < size - k; ++j) codes[j] = x[j];
        x = codes;
      }
      const bool last = k + 16 == wide || (k + 16) % (16 * kPiece) == 0;
      body(piece, (at + k) / 16, _mm_loadu_si128(reinterpret_cast<const __m128i*>(x)), last);
      if (last) ++piece;
    }
  });
}

// Sums of the magnitudes of a tile's inputs, two of 64 bits: of those in each half of a register of tables.
inline __m128i magnitudes(__m128i x) {
  const __m128i halves = _mm_setr_epi8(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15);
  return _mm_sad_epu8(_mm_shuffle_epi8(_mm_abs_epi8(x), halves), _mm_setzero_si128());
}

inline int32_t largest_of(__m128i two) {
  const int32_t a = _mm_cvtsi128_si32(two), b = _mm_cvtsi128_si32(_mm_unpackhi_epi64(two, two));
  return a > b ? a : b;
}

inline int32_t sum_of(__m128i two) {
  return _mm_cvtsi128_si32(two) + _mm_cvtsi128_si32(_mm_unpackhi_epi64(two, two));
}

// The tables of a tile.
inline void store_tables(__m128i x, uint8_t* tables) {
  const __m128i positive = _mm_max_epi8(x, _mm_setzero_si128()), negative = _mm_sub_epi8(positive, x);
  // Of every four inputs the positive, then the negative parts.
  const __m256i parts =
      _mm256_set_m128i(_mm_unpackhi_epi32(positive, negative), _mm_unpacklo_epi32(positive, negative));
  // The sums for two signs: four of inputs 0 and 1, four of inputs 2 and 3.
  const __m128i even = _mm_setr_epi8(4, 0, 4, 0, 6, 2, 6, 2, 12, 8, 12, 8, 14, 10, 14, 10);
  const __m128i odd = _mm_setr_epi8(5, 5, 1, 1, 7, 7, 3, 3, 13, 13, 9, 9, 15, 15, 11, 11);
  const __m256i pairs = _mm256_add_epi8(_mm256_shuffle_epi8(parts, _mm256_broadcastsi128_si256(even)),
                                        _mm256_shuffle_epi8(parts, _mm256_broadcastsi128_si256(odd)));
  const __m256i four[2] = {_mm256_permute4x64_epi64(pairs, 0x50), _mm256_permute4x64_epi64(pairs, 0xfa)};
  const __m256i low = _mm256_set1_epi32(0x03020100);
  const __m256i high =
      _mm256_broadcastsi128_si256(_mm_setr_epi32(0x04040404, 0x05050505, 0x06060606, 0x07070707));
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(tables) + i,
        _mm256_add_epi8(_mm256_shuffle_epi8(four[i], low), _mm256_shuffle_epi8(four[i], high)));
  }
}

// x = 16 * high + low with low in [-8, 7] and high in [-8, 8].
struct Halves {
  __m128i high, low;

  explicit Halves(__m128i x) {
    const __m256i wide = _mm256_add_epi16(_mm256_cvtepi8_epi16(x), _mm256_set1_epi16(8));
    const __m256i up = _mm256_srai_epi16(wide, 4);
    high = _mm_packs_epi16(_mm256_castsi256_si128(up), _mm256_extracti128_si256(up, 1));
    low = _mm_sub_epi8(_mm_and_si128(_mm_add_epi8(x, _mm_set1_epi8(8)), _mm_set1_epi8(15)), _mm_set1_epi8(8));
  }
};

void prepare(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  const Offsets at(*g, rows);
  char* data = static_cast<char*>(panel);
  int16_t* corrections = reinterpret_cast<int16_t*>(data + at.corrections);
  Facts* facts = reinterpret_cast<Facts*>(data);
  facts->pieces = cut_blocks(*g, reinterpret_cast<Piece*>(data + at.pieces));
  float* scales = reinterpret_cast<float*>(data + at.scales);
  const int64_t tiles = padded_inputs(*g) / 16;
  __m128i largest = _mm_setzero_si128();
  for (int64_t r = 0; r < rows; ++r) {
    each_tile(*g, codes + r * stride,
              [&](int64_t, int64_t, __m128i x, bool) { largest = _mm_max_epi16(largest, magnitudes(x)); });
  }
  const bool split = largest_of(largest) > 255;
  const int64_t at_once = split ? kLanes / 2 : kLanes;
  largest = _mm_setzero_si128();
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t top = r / at_once * at_once, some = rows - top < at_once ? rows - top : at_once;
    const int64_t lanes = split ? 2 * some : some, lane = split ? 2 * (r - top) : r - top;
    uint8_t* tables =
        reinterpret_cast<uint8_t*>(data + at.tables) + ((split ? 2 * top : top) * tiles + lane) * kTileTables;
    __m128i sum = _mm_setzero_si128();  // of the piece
    each_tile(*g, codes + r * stride, [&](int64_t piece, int64_t tile, __m128i x, bool last) {
      uint8_t* to = tables + tile * lanes * kTileTables;
      if (split) {
        const Halves h(x);
        const __m128i high = magnitudes(h.high), low = magnitudes(h.low);
        largest = _mm_max_epi16(largest, _mm_max_epi16(high, low));
        sum = _mm_add_epi64(sum, _mm_add_epi64(_mm_slli_epi64(high, 4), low));
        store_tables(h.high, to);
        store_tables(h.low, to + kTileTables);
      } else {
        const __m128i all = magnitudes(x);
        largest = _mm_max_epi16(largest, all);
        sum = _mm_add_epi64(sum, all);
        store_tables(x, to);
      }
      if (last) {
        corrections[r * facts->pieces + piece] = static_cast<int16_t>(-sum_of(sum));
        sum = _mm_setzero_si128();
      }
    });
    for (int64_t i = 0; i < g->count; ++i) {
      scales[r * g->count + i] = power_of_two(exponents[r * exponent_stride + i]);
    }
  }
  const int32_t most = largest_of(largest);
  const int32_t fit = most ? 255 / most : kMostTogether;
  facts->split = split;
  facts->together = fit < kMostTogether ? fit : kMostTogether;
}

// Adds up the entries of some tiles as bytes, then to sums of 16 bits: `odd` has those of outputs 1, 3, ...
// in each half, `whole` 256 times them plus those of outputs 0, 2, ..., modulo 2**16.
template <int Lanes, int Tiles>
inline void add_tiles(const uint8_t* tables, const uint8_t* bits, __m256i (&whole)[Lanes],
                      __m256i (&odd)[Lanes]) {
  __m256i bytes[Lanes];
  const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 4
  for (int t = 0; t < Tiles; ++t) {
    const __m256i tile = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits) + t);
    const __m256i low = _mm256_and_si256(tile, nibble);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(tile, 4), nibble);
#pragma GCC unroll 4
    for (int r = 0; r < Lanes; ++r) {
      const __m256i* two = reinterpret_cast<const __m256i*>(tables + (t * Lanes + r) * kTileTables);
      const __m256i first = _mm256_shuffle_epi8(_mm256_loadu_si256(two), low);
      bytes[r] = t ? _mm256_add_epi8(bytes[r], first) : first;
      bytes[r] = _mm256_add_epi8(bytes[r], _mm256_shuffle_epi8(_mm256_loadu_si256(two + 1), high));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < Lanes; ++r) {
    whole[r] = _mm256_add_epi16(whole[r], bytes[r]);
    odd[r] = _mm256_add_epi16(odd[r], _mm256_srli_epi16(bytes[r], 8));
  }
}

// The 16 outputs in order, both halves added.
inline __m256i outputs_of(__m256i whole, __m256i odd) {
  const __m256i even = _mm256_sub_epi16(whole, _mm256_slli_epi16(odd, 8));
  const __m256i a = _mm256_unpacklo_epi16(even, odd), b = _mm256_unpackhi_epi16(even, odd);
  return _mm256_add_epi16(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
}

// Some rows of a panel that are multiplied at once, and where their products go.
struct Rows {
  int64_t rows, count, pieces;
  const uint8_t* tables;
  const int16_t* corrections;  // [rows][pieces]
  const float* scales;         // [rows][count]
  float* out;
  int64_t out_stride;
};

// Pieces [begin, end) of a panel; all tables of a window stay in the first cache.
struct Window {
  const Piece* pieces;
  int64_t begin, end;
};

// Products with the 16 outputs of a strip of a plane, modulo 2**16: to dots [kLanes][16] of each piece, which
// are `stride` apart.
template <int N, bool Split, int Together>
void dot_pieces(const Rows& rows, const Window& window, const uint8_t* strip, int16_t* dots, int64_t stride) {
  constexpr int kUsed = Split ? 2 * N : N;
  for (int64_t i = window.begin; i < window.end; ++i, dots += stride) {
    const Piece& piece = window.pieces[i];
    const uint8_t* tables = rows.tables + piece.tile * kUsed * kTileTables;
    const uint8_t* bits = strip + piece.tile * 32;
    __m256i whole[kUsed], odd[kUsed];
#pragma GCC unroll 4
    for (int r = 0; r < kUsed; ++r) whole[r] = odd[r] = _mm256_setzero_si256();
    int64_t t = 0;
    for (; t + Together <= piece.tiles; t += Together) {
      add_tiles<kUsed, Together>(tables + t * kUsed * kTileTables, bits + t * 32, whole, odd);
    }
    if constexpr (Together > 1) {
      for (; t < piece.tiles; ++t) {
        add_tiles<kUsed, 1>(tables + t * kUsed * kTileTables, bits + t * 32, whole, odd);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < N; ++r) {
      __m256i sum = outputs_of(whole[Split ? 2 * r : r], odd[Split ? 2 * r : r]);
      if constexpr (Split) {
        sum = _mm256_add_epi16(_mm256_slli_epi16(sum, 4), outputs_of(whole[2 * r + 1], odd[2 * r + 1]));
      }
      const __m256i correction = _mm256_set1_epi16(rows.corrections[r * rows.pieces + i]);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(dots + r * 16),
                          _mm256_add_epi16(_mm256_add_epi16(sum, sum), correction));
    }
  }
}

using DotPieces = void (*)(const Rows&, const Window&, const uint8_t*, int16_t*, int64_t);

template <int N, bool Split>
DotPieces dots_with(int together) {
  static constexpr DotPieces kTable[kMostTogether] = {dot_pieces<N, Split, 1>, dot_pieces<N, Split, 2>,
                                                      dot_pieces<N, Split, 3>, dot_pieces<N, Split, 4>};
  return kTable[together - 1];
}

template <bool Split>
DotPieces dots_for(int64_t rows, int together) {
  if (rows == 1) return dots_with<1, Split>(together);
  if constexpr (Split) {
    return dots_with<2, Split>(together);
  } else {
    return rows == 2   ? dots_with<2, Split>(together)
           : rows == 3 ? dots_with<3, Split>(together)
                       : dots_with<4, Split>(together);
  }
}

// Adds the products of a window's pieces to the outputs of a strip. dots: [pieces][Planes][kLanes][16], whose
// sums for a block that began or ends in another window are carried [Planes][kLanes][16].
template <int Planes>
inline void finish(const Rows& rows, const Window& window, int64_t strip, const int16_t* dots,
                   const SignPlanes& planes, int32_t* carried) {
  __m256 weight[Planes][2];
#pragma GCC unroll 4
  for (int i = 0; i < 2 * Planes; ++i) {
    weight[i / 2][i % 2] = _mm256_loadu_ps(planes.scales + (i / 2 * planes.strips + strip) * 16 + i % 2 * 8);
  }
  const bool begun = window.begin > 0 && !window.pieces[window.begin - 1].end;
  const bool first = window.pieces[window.begin].block == 0, left = !window.pieces[window.end - 1].end;
  for (int64_t r = 0; r < rows.rows; ++r) {
    float* out = rows.out + r * rows.out_stride + strip * 16;
    __m256i* carry = reinterpret_cast<__m256i*>(carried + r * 16);
    __m256i sums[Planes][2];
    __m256 y[2];
#pragma GCC unroll 4
    for (int i = 0; i < 2 * Planes; ++i) {
      sums[i / 2][i % 2] = begun ? carry[i / 2 * kLanes * 2 + i % 2] : _mm256_setzero_si256();
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) y[i] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(out + i * 8);
    const __m128i* from = reinterpret_cast<const __m128i*>(dots + r * 16);
    for (int64_t at = window.begin; at < window.end; ++at, from += Planes * kLanes * 2) {
#pragma GCC unroll 4
      for (int i = 0; i < 2 * Planes; ++i) {
        const __m256i dot = _mm256_cvtepi16_epi32(from[i / 2 * kLanes * 2 + i % 2]);
        sums[i / 2][i % 2] = _mm256_add_epi32(sums[i / 2][i % 2], dot);
      }
      const Piece& piece = window.pieces[at];
      if (!piece.end) continue;
      const __m256 scale = _mm256_set1_ps(rows.scales[r * rows.count + piece.block]);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) {
        __m256 total = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[0][i]), weight[0][i]);
        if constexpr (Planes == 2) {
          total = _mm256_add_ps(total, _mm256_mul_ps(_mm256_cvtepi32_ps(sums[1][i]), weight[1][i]));
        }
        y[i] = _mm256_add_ps(y[i], _mm256_mul_ps(total, scale));
      }
#pragma GCC unroll 4
      for (int i = 0; i < 2 * Planes; ++i) sums[i / 2][i % 2] = _mm256_setzero_si256();
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) _mm256_storeu_ps(out + i * 8, y[i]);
    if (left) {
#pragma GCC unroll 4
      for (int i = 0; i < 2 * Planes; ++i) carry[i / 2 * kLanes * 2 + i % 2] = sums[i / 2][i % 2];
    }
  }
}

// Rows that are multiplied at once, times strips [first, last).
template <int Planes>
void multiply_rows(const Rows& rows, const Piece* pieces, DotPieces dot, int64_t tiles,
                   const SignPlanes& planes, int64_t first, int64_t last) {
  constexpr int64_t kDots = kLanes * 16;
  alignas(32) int32_t carried[kStripsAtOnce][Planes * kDots];
  alignas(32) int16_t dots[kWindow * Planes * kDots];
  for (int64_t from = first; from < last; from += kStripsAtOnce) {
    const int64_t to = last - from < kStripsAtOnce ? last : from + kStripsAtOnce;
    for (Window window = {pieces, 0, 0}; window.begin < rows.pieces; window.begin = window.end) {
      const int64_t limit = pieces[window.begin].tile + kWindow;
      while (window.end < rows.pieces && pieces[window.end].tile + pieces[window.end].tiles <= limit) {
        ++window.end;
      }
      for (int64_t s = from; s < to; ++s) {
        for (int64_t p = 0; p < Planes; ++p) {
          dot(rows, window, planes.bits + (p * planes.strips + s) * tiles * 32, dots + p * kDots,
              Planes * kDots);
        }
        finish<Planes>(rows, window, s, dots, planes, carried[s - from]);
      }
    }
  }
}

void multiply(const Geometry* g, const void* panel, int64_t rows, const SignPlanes* planes, int64_t first,
              int64_t last, float* out, int64_t out_stride) {
  const Offsets at(*g, rows);
  const char* data = static_cast<const char*>(panel);
  const Facts& facts = *reinterpret_cast<const Facts*>(data);
  const int64_t lanes = facts.split ? 2 : 1, at_once = kLanes / lanes, tiles = padded_inputs(*g) / 16;
  for (int64_t top = 0; top < rows; top += at_once) {
    const int64_t some = rows - top < at_once ? rows - top : at_once;
    const Rows these = {
        some,
        g->count,
        facts.pieces,
        reinterpret_cast<const uint8_t*>(data + at.tables) + top * lanes * tiles * kTileTables,
        reinterpret_cast<const int16_t*>(data + at.corrections) + top * facts.pieces,
        reinterpret_cast<const float*>(data + at.scales) + top * g->count,
        out + top * out_stride,
        out_stride};
    const DotPieces dot =
        facts.split ? dots_for<true>(some, facts.together) : dots_for<false>(some, facts.together);
    const auto run = planes->count == 2 ? multiply_rows<2> : multiply_rows<1>;
    run(these, reinterpret_cast<const Piece*>(data + at.pieces), dot, tiles, *planes, first, last);
  }
}

}  // namespace

extern const SignKernels kSigns = {"vpshufb into tables of sums", panel_bytes, prepare, multiply};

}  // namespace bqc::avx2
