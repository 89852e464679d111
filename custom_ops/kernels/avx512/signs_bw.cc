// Weights of signs by table lookup, without VBMI. As for AVX2, there is a table of 16 bytes for every four
// inputs x of a row: entry e is the sum of max(x_b, 0) where bit b of e is set and of max(-x_b, 0) where not,
// so that a block's sum E of entries gives its dot = 2 E - sum |x|.
//
// vpshufb looks up 16 outputs in four tables at once. Entries of some steps of 32 inputs are added as bytes
// where that fits one; vpermd and vpshufb then put the four sums of an output side by side, which vpdpbusd
// adds to 32-bit sums, times 2 on the way. Where the magnitudes of the eight inputs that meet in a byte make
// more than that, codes are taken for 16 high + low, with tables of both halves: only those 32 inputs, of the
// rows that are multiplied at once, take twice as long. Their tables of high parts come after all others of a
// block.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx512 {

#include "kernels/avx512/outputs.inc"
#include "kernels/avx512/sign_tables.inc"
#include "kernels/blocks.inc"

namespace {

constexpr int kMaxRows = 4;            // rows that are multiplied at once; 8 accumulators
constexpr int64_t kStepBytes = 64;     // of a strip for 32 inputs
constexpr int32_t kMostTogether = 4;   // steps that are added up as bytes
constexpr int32_t kHighsTogether = 3;  // of high parts: 3 * 8 inputs * 8 = 192

// What holds for a block of the rows that are multiplied at once.
struct Facts {
  int32_t together;  // steps whose entries are added as bytes, but for high parts
  int32_t highs;     // steps of 32 inputs that have tables of high parts
  int32_t tail;      // whether the last 16 inputs have
};

}  // namespace

#include "kernels/avx512/sign_panel.inc"

namespace {

// The most that entries of 32 inputs of a row make in a byte.
inline int32_t most_in_a_byte(const PerRow& x, int64_t rows) {
  __m256i largest = _mm256_setzero_si256();
  for (int64_t r = 0; r < rows; ++r) {
    const __m256i four = add_magnitudes(_mm256_setzero_si256(), x.row[r], 1);
    largest = _mm256_max_epi32(largest, _mm256_add_epi32(four, _mm256_shuffle_epi32(four, 0x4e)));
  }
  __m128i most = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1));
  return _mm_cvtsi128_si32(most);
}

void prepare(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  const Offsets offsets(*g, rows);
  int64_t index = 0;
  each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
    const Tile tile = offsets.tile(panel, index++, top);
    const int64_t step_bytes = some * kTableBytes;
    uint8_t* tables = tile.tables;
    int32_t* high_at = tile.at;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      uint8_t* highs = tables + (wide + 31) / 32 * step_bytes;
      Facts facts = {kMostTogether, 0, 0};
      int32_t largest = 0;
      PerRow sums, x, low;
      for (int64_t r = 0; r < some; ++r) sums.row[r] = _mm256_setzero_si256();
      for (int64_t k = 0; k < wide; k += 32, tables += step_bytes) {
        const __mmask32 there = size - k < 32 ? (__mmask32{1} << (size - k)) - 1 : ~__mmask32{0};
        for (int64_t r = 0; r < some; ++r) {
          x.row[r] = _mm256_maskz_loadu_epi8(there, codes + (top + r) * stride + start + k);
        }
        int32_t most = most_in_a_byte(x, some);
        if (most > 255) {
          for (int64_t r = 0; r < some; ++r) halve(x.row[r], &x.row[r], &low.row[r]);
          add_tables(x, some, 16, highs, sums);
          highs += step_bytes;
          if (wide - k < 32) {
            facts.tail = 1;
          } else {
            *high_at++ = static_cast<int32_t>((at + k) * 2);
            ++facts.highs;
          }
          x = low;
          most = most_in_a_byte(x, some);
        }
        add_tables(x, some, 1, tables, sums);
        largest = most > largest ? most : largest;
      }
      tables = highs;
      if (largest * kMostTogether > 255) facts.together = 255 / largest;
      tile.facts[i] = facts;
      for (int64_t r = 0; r < some; ++r) {
        tile.corrections[i * some + r] = -sum_of(sums.row[r]);
        tile.scales[i * some + r] = power_of_two(exponents[(top + r) * exponent_stride + i]);
      }
    });
  });
}

// Sums of entries as bytes.
template <int Rows, int Columns>
struct Entries {
  __m512i sum[Rows][Columns];

  Entries() {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) sum[r][c] = _mm512_setzero_si512();
    }
  }

  // Adds those of 32 inputs, or of 16 where words is 0x0f.
  inline void add(const uint8_t* const (&bits)[Columns], int64_t at, __mmask8 words, const uint8_t* tables) {
    const __m512i nibble = _mm512_set1_epi8(15);
    __m512i low[Columns], high[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const __m512i w =
          words == 0xff ? _mm512_loadu_si512(bits[c] + at) : _mm512_maskz_loadu_epi64(words, bits[c] + at);
      low[c] = _mm512_and_si512(w, nibble);
      high[c] = _mm512_and_si512(_mm512_srli_epi16(w, 4), nibble);
    }
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      const __m512i first = _mm512_loadu_si512(tables + r * 64),
                    second = _mm512_loadu_si512(tables + (Rows + r) * 64);
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) {
        sum[r][c] = _mm512_add_epi8(sum[r][c], _mm512_shuffle_epi8(first, low[c]));
        sum[r][c] = _mm512_add_epi8(sum[r][c], _mm512_shuffle_epi8(second, high[c]));
      }
    }
  }

  inline void add_to(__m512i (&acc)[Rows][Columns], __m512i factor) const {
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) add_outputs(acc[r][c], sum[r][c], factor);
    }
  }
};

// All blocks of Rows rows and Strips strips.
template <int Rows, int Planes, int Strips>
void product(const Tile& tile, const Geometry& g, const SignPlanes& planes, int64_t strip, float* out,
             int64_t out_stride) {
  constexpr int kColumns = Planes * Strips;
  constexpr int64_t kTables = Rows * kTableBytes;
  using Bytes = Entries<Rows, kColumns>;
  const int64_t strip_bytes = padded_inputs(g) * 2;
  const uint8_t* bits[kColumns];
  const float* scales[kColumns];
#pragma GCC unroll 4
  for (int c = 0; c < kColumns; ++c) {
    const int64_t column = c / Strips * planes.strips + strip + c % Strips;
    bits[c] = planes.bits + column * strip_bytes;
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
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) acc[r][c] = _mm512_set1_epi32(tile.corrections[i * Rows + r]);
    }
    const Facts facts = tile.facts[i];
    const int64_t tail = (at + wide / 32 * 32) * 2, most = facts.together * kStepBytes;
    for (int64_t from = at * 2; from != tail;) {
      const int64_t end = tail - from < most ? tail : from + most;
      Bytes bytes;
      do {
        bytes.add(bits, from, 0xff, tables);
        tables += kTables;
      } while ((from += kStepBytes) != end);
      bytes.add_to(acc, two);
    }
    if (wide % 32) {
      Bytes bytes;
      bytes.add(bits, tail, 0x0f, tables);
      bytes.add_to(acc, two);
      tables += kTables;
    }
    for (int32_t done = 0; done < facts.highs;) {
      const int32_t end = facts.highs - done < kHighsTogether ? facts.highs : done + kHighsTogether;
      Bytes bytes;
      do {
        bytes.add(bits, *high_at++, 0xff, tables);
        tables += kTables;
      } while (++done != end);
      bytes.add_to(acc, high);
    }
    if (facts.tail) {
      Bytes bytes;
      bytes.add(bits, tail, 0x0f, tables);
      bytes.add_to(acc, high);
      tables += kTables;
    }
    store_block<Rows, Planes, Strips>(acc, scales, tile.scales + i * Rows, i > 0, out, out_stride);
  }
}

using Product = void (*)(const Tile&, const Geometry&, const SignPlanes&, int64_t, float*, int64_t);

// Four columns where there are few rows, so that the sums of a step are enough to hide the latency of what
// adds them up.
constexpr int64_t kFewRows = 2;

template <int Planes, int Strips>
Product product_for(int64_t rows) {
  if constexpr (Planes * Strips == 4) {
    return rows == 1 ? product<1, Planes, Strips> : product<2, Planes, Strips>;
  } else {
    static constexpr Product kTable[kMaxRows] = {product<1, Planes, Strips>, product<2, Planes, Strips>,
                                                 product<3, Planes, Strips>, product<4, Planes, Strips>};
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

extern const SignKernels kSigns = {"512-bit vpshufb into tables of sums", panel_bytes, prepare, multiply};

}  // namespace bqc::avx512
