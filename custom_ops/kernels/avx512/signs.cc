// Weights of signs by table lookup, with VBMI. As for AVX2, there is a table of 16 bytes for every four
// inputs x of a row: entry e is the sum of max(x_b, 0) where bit b of e is set and of max(-x_b, 0) where not,
// so that a block's sum E of entries gives its dot = 2 E - sum |x|.
//
// vpermb looks up 64 groups of four signs in four tables at once. The signs are put in such an order that the
// four entries of an output are neighbours, which vpdpbusd adds to 32-bit sums, times 2 on the way. Where the
// magnitudes of four inputs make more than a byte, codes are taken for 16 high + low, with tables of both
// halves: only those 32 inputs, of the rows that are multiplied at once, take twice as long. Their tables of
// high parts come after all others of a block, so that nothing but addresses changes from one lookup to the
// next.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512_vbmi {

#include "kernels/avx512/sign_tables.inc"
#include "kernels/blocks.inc"

namespace {

constexpr int kMaxRows = 8;  // rows that are multiplied at once; 16 accumulators

// How many tables of high parts a block has.
struct Facts {
  int32_t highs;  // of 32 inputs
  int32_t tail;   // of the last 16, 0 or 1
};

}  // namespace

#include "kernels/avx512/sign_panel.inc"

namespace {

// Asks for 64 codes of each of some rows: another core or an earlier operator wrote them, and rows are too
// short for the hardware to see where they go on.
inline void prefetch(const int8_t* codes, int64_t stride, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(codes + r * stride, 0, 2);
}

void prepare(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  const Offsets offsets(*g, rows);
  int64_t index = 0;
  for (int64_t k = 0; k < g->length; k += 64) prefetch(codes + k, stride, rows < kMaxRows ? rows : kMaxRows);
  each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
    const Tile tile = offsets.tile(panel, index++, top);
    const int64_t step_bytes = some * kTableBytes;
    uint8_t* tables = tile.tables;
    int32_t* high_at = tile.at;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      uint8_t* highs = tables + (wide + 31) / 32 * step_bytes;
      tile.facts[i] = {0, 0};
      PerRow sums, x, low;
      for (int64_t r = 0; r < some; ++r) sums.row[r] = _mm256_setzero_si256();
      for (int64_t k = 0; k < wide; k += 32) {
        const __mmask32 there = size - k < 32 ? (__mmask32{1} << (size - k)) - 1 : ~__mmask32{0};
        if (k % 64 == 0) {
          const int64_t next = top + some, left = rows - next;
          prefetch(codes + next * stride + start + k, stride, left < some ? left : some);
        }
        __m256i largest = _mm256_setzero_si256();
        for (int64_t r = 0; r < some; ++r) {
          x.row[r] = _mm256_maskz_loadu_epi8(there, codes + (top + r) * stride + start + k);
          largest = _mm256_max_epi32(largest, add_magnitudes(_mm256_setzero_si256(), x.row[r], 1));
        }
        if (_mm256_cmpgt_epi32_mask(largest, _mm256_set1_epi32(255))) {
          for (int64_t r = 0; r < some; ++r) halve(x.row[r], &x.row[r], &low.row[r]);
          add_tables(x, some, 16, highs, sums);
          highs += step_bytes;
          if (wide - k < 32) {
            tile.facts[i].tail = 1;
          } else {
            *high_at++ = static_cast<int32_t>((at + k) * 2);
            ++tile.facts[i].highs;
          }
          add_tables(low, some, 1, tables, sums);
        } else {
          add_tables(x, some, 1, tables, sums);
        }
        tables += step_bytes;
      }
      tables = highs;
      for (int64_t r = 0; r < some; ++r) {
        tile.corrections[i * some + r] = -sum_of(sums.row[r]);
        tile.scales[i * some + r] = power_of_two(exponents[(top + r) * exponent_stride + i]);
      }
    });
  });
}

// acc += factor * the four entries of every output. Written out, as GCC copies most accumulators of a loop to
// other registers and back where it is left to place this.
inline void add_entries(__m512i& acc, __m512i entries, __m512i factor) {
  asm("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(entries), "v"(factor));
}

// Adds factor times the entries of 64 signs of every strip and plane for every row.
template <int Rows, int Columns>
inline void look_up(__m512i (&acc)[Rows][Columns], const __m512i (&w)[Columns], const uint8_t* tables,
                    __m512i factor) {
  // Every byte's nibble, and from bit 4 on the number of its table.
  const __m512i nibble = _mm512_set1_epi8(15), table = _mm512_set1_epi32(0x30201000);
  __m512i entry[Columns];
#pragma GCC unroll 4
  for (int c = 0; c < Columns; ++c)
    entry[c] = _mm512_ternarylogic_epi32(w[c], nibble, table, 0xea);  // and, or
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    const __m512i four = _mm512_loadu_si512(tables + r * 64);
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      add_entries(acc[r][c], _mm512_permutexvar_epi8(entry[c], four), factor);
    }
  }
}

// The signs of some columns, as bytes [16 outputs][4 groups of inputs] of two nibbles.
template <int Columns>
struct Signs {
  const uint8_t* bits[Columns];

  // Those of 32 inputs, or of 16 where words is 0x0f.
  inline void load(int64_t at, __mmask8 words, __m512i (&w)[Columns]) const {
    const __m512i byte = _mm512_set_epi32(
        0x3f2f1f0f, 0x3e2e1e0e, 0x3d2d1d0d, 0x3c2c1c0c, 0x3b2b1b0b, 0x3a2a1a0a, 0x39291909, 0x38281808,
        0x37271707, 0x36261606, 0x35251505, 0x34241404, 0x33231303, 0x32221202, 0x31211101, 0x30201000);
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const __m512i all =
          words == 0xff ? _mm512_loadu_si512(bits[c] + at) : _mm512_maskz_loadu_epi64(words, bits[c] + at);
      w[c] = _mm512_permutexvar_epi8(byte, all);
    }
  }
};

// Adds factor times the entries of 32 inputs, or of 16.
template <int Rows, int Columns>
inline void add_step(__m512i (&acc)[Rows][Columns], const Signs<Columns>& signs, int64_t at, __mmask8 words,
                     const uint8_t* tables, __m512i factor) {
  __m512i w[Columns];
  signs.load(at, words, w);
  look_up<Rows, Columns>(acc, w, tables, factor);
#pragma GCC unroll 4
  for (int c = 0; c < Columns; ++c) w[c] = _mm512_srli_epi16(w[c], 4);
  look_up<Rows, Columns>(acc, w, tables + Rows * 64, factor);
}

// All blocks of Rows rows and Strips strips.
template <int Rows, int Planes, int Strips>
void product(const Tile& tile, const Geometry& g, const SignPlanes& planes, int64_t strip, float* out,
             int64_t out_stride) {
  constexpr int kColumns = Planes * Strips;
  constexpr int64_t kStepBytes = Rows * kTableBytes;
  const int64_t strip_bytes = padded_inputs(g) * 2;
  Signs<kColumns> signs;
  const float* scales[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    const int64_t column = c / Strips * planes.strips + strip + c % Strips;
    signs.bits[c] = planes.bits + column * strip_bytes;
    scales[c] = planes.scales + column * 16;
  }
  const __m512i two = _mm512_set1_epi8(2), high = _mm512_set1_epi8(32);
  const int32_t* high_at = tile.at;
  const uint8_t* tables = tile.tables;
  // The blocks of `each_padded_block`, whose function GCC would keep the sums in memory for.
  const int64_t wide_span = padded(g.span, 16);
  for (int64_t i = 0; i < g.count; ++i) {
    const int64_t begin = i % g.per_group * g.block, left = g.span - begin;
    const int64_t at = i / g.per_group * wide_span + begin,
                  wide = padded(left < g.block ? left : g.block, 16);
    __m512i acc[Rows][kColumns];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) acc[r][c] = _mm512_set1_epi32(tile.corrections[i * Rows + r]);
    }
    const Facts facts = tile.facts[i];
    const int64_t tail = (at + wide / 32 * 32) * 2;
    for (int64_t from = at * 2; from != tail; from += 64, tables += kStepBytes) {
      add_step<Rows, kColumns>(acc, signs, from, 0xff, tables, two);
    }
    if (wide % 32) {
      add_step<Rows, kColumns>(acc, signs, tail, 0x0f, tables, two);
      tables += kStepBytes;
    }
    for (const int32_t* end = high_at + facts.highs; high_at != end; ++high_at, tables += kStepBytes) {
      add_step<Rows, kColumns>(acc, signs, *high_at, 0xff, tables, high);
    }
    if (facts.tail) {
      add_step<Rows, kColumns>(acc, signs, tail, 0x0f, tables, high);
      tables += kStepBytes;
    }
    store_block<Rows, Planes, Strips>(acc, scales, tile.scales + i * Rows, i > 0, out, out_stride);
  }
}

using Product = void (*)(const Tile&, const Geometry&, const SignPlanes&, int64_t, float*, int64_t);

// Four columns where there are few rows, so that the sums of a step are enough to hide the latency of
// vpdpbusd.
constexpr int64_t kFewRows = 4;

template <int Planes, int Strips>
Product product_for(int64_t rows) {
  if constexpr (Planes * Strips == 4) {
    static constexpr Product kTable[kFewRows] = {product<1, Planes, Strips>, product<2, Planes, Strips>,
                                                 product<3, Planes, Strips>, product<4, Planes, Strips>};
    return kTable[rows - 1];
  } else {
    static constexpr Product kTable[kMaxRows] = {product<1, Planes, Strips>, product<2, Planes, Strips>,
                                                 product<3, Planes, Strips>, product<4, Planes, Strips>,
                                                 product<5, Planes, Strips>, product<6, Planes, Strips>,
                                                 product<7, Planes, Strips>, product<8, Planes, Strips>};
    return kTable[rows - 1];
  }
}

void multiply(const Geometry* g, const void* panel, int64_t rows, const SignPlanes* planes, int64_t first,
              int64_t last, float* out, int64_t out_stride) {
  const Offsets offsets(*g, rows);
  int64_t index = 0;
  each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
    const Tile tile = offsets.tile(panel, index++, top);
    const int64_t most = (some <= kFewRows ? 4 : 2) / planes->count;
    for (int64_t s = first; s < last;) {
      int64_t strips = most;
      while (strips > last - s) strips /= 2;
      const Product run = planes->count == 2 ? (strips == 2 ? product_for<2, 2> : product_for<2, 1>)(some)
                          : strips == 4      ? product_for<1, 4>(some)
                          : strips == 2      ? product_for<1, 2>(some)
                                             : product_for<1, 1>(some);
      run(tile, *g, *planes, s, out + top * out_stride + s * 16, out_stride);
      s += strips;
    }
  });
}

}  // namespace

extern const SignKernels kSigns = {"vpermb into tables of sums", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512_vbmi
