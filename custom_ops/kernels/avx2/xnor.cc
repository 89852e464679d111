// Signs by signs by table lookup. The bits in which four inputs of a row differ from four of a weight are few
// enough for a table of 16 bytes: entry e is the number of bits of e ^ x. vpshufb looks up those of 16
// outputs and two groups of four inputs at once; so one instruction does the XNOR and the count of 128 bits.
//
// Entries are at most 4, so that a byte holds those of two rows, of a pair: table a in its low half, table b
// in its high one. Three entries fit a half; what they add up to is added as a whole, modulo 256, and the
// high halves once more by themselves, which tells the low ones.
#include <immintrin.h>

#include "kernels/kernels.h"

namespace bqc::avx2 {

#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

namespace {

constexpr int kPairs = 4;               // of rows, that are multiplied at once
constexpr int64_t kStepTables = 64;     // bytes of the tables of a step: 16 inputs, two bytes of every output
constexpr int64_t kStepsTogether = 30;  // whose counts, of at most 8 each, fit a byte; a multiple of 3
constexpr int64_t kWindow = 96;         // steps whose tables stay in the first cache

// kTables.of[n][x]: of the lowest n bits.
struct Tables {
  uint8_t of[5][16][16];

  constexpr Tables() : of() {
    for (int n = 0; n < 5; ++n) {
      for (int x = 0; x < 16; ++x) {
        for (int e = 0; e < 16; ++e) {
          int count = 0;
          for (int b = 0; b < n; ++b) count += (e ^ x) >> b & 1;
          of[n][x][e] = static_cast<uint8_t>(count);
        }
      }
    }
  }
};
alignas(64) constexpr Tables kTables;

inline int64_t steps_of(int64_t columns) { return padded(columns, 64) / 16; }

// A panel: for every 2 * kPairs rows the tables [steps][pairs][2 nibbles][2 bytes][16] of its pairs, then
// those of a row that has no other, [steps][2][2][16].
int64_t panel_bytes(int64_t columns, int64_t rows) {
  return (rows + 1) / 2 * steps_of(columns) * kStepTables;
}

// Tables of the low and of the high half of byte j of a row.
struct Halves {
  __m128i low, high;

  Halves(const uint8_t* row, int64_t columns, int64_t j) {
    const int64_t left = columns - 8 * j;
    const int byte = left > 0 ? row[j] : 0;
    low = load(left >= 4 ? 4 : left < 0 ? 0 : left, byte & 15);
    high = load(left >= 8 ? 4 : left < 4 ? 0 : left - 4, byte >> 4);
  }

  static __m128i load(int64_t bits, int nibble) {
    return _mm_load_si128(reinterpret_cast<const __m128i*>(kTables.of[bits][nibble]));
  }
};

// Tables of one row, or of two; those of a step are `stride` bytes after the last one's.
template <int Rows>
void prepare_tables(int64_t columns, const uint8_t* bits, int64_t row_stride, uint8_t* tables,
                    int64_t stride) {
  for (int64_t j = 0; j < 2 * steps_of(columns); ++j) {
    Halves both(bits, columns, j);
    if constexpr (Rows == 2) {
      const Halves second(bits + row_stride, columns, j);
      both.low = _mm_or_si128(both.low, _mm_slli_epi16(second.low, 4));
      both.high = _mm_or_si128(both.high, _mm_slli_epi16(second.high, 4));
    }
    __m128i* to = reinterpret_cast<__m128i*>(tables + j / 2 * stride) + j % 2;
    _mm_store_si128(to, both.low);
    _mm_store_si128(to + 2, both.high);
  }
}

void prepare(int64_t columns, const uint8_t* bits, int64_t stride, int64_t rows, void* panel) {
  uint8_t* group = static_cast<uint8_t*>(panel);
  for (int64_t top = 0; top < rows; top += 2 * kPairs) {
    const int64_t some = rows - top < 2 * kPairs ? rows - top : 2 * kPairs, pairs = some / 2;
    for (int64_t i = 0; i < pairs; ++i) {
      prepare_tables<2>(columns, bits + (top + 2 * i) * stride, stride, group + i * kStepTables,
                        pairs * kStepTables);
    }
    group += pairs * steps_of(columns) * kStepTables;
    if (some % 2) prepare_tables<1>(columns, bits + (rows - 1) * stride, stride, group, kStepTables);
  }
}

// Counts of 16 outputs in two halves, which are those of different inputs: `odd` has outputs 1, 3, ...,
// `whole` 256 times them plus outputs 0, 2, ..., modulo 2**16.
struct Counts {
  __m256i whole = _mm256_setzero_si256(), odd = _mm256_setzero_si256();

  void add(__m256i bytes) {
    whole = _mm256_add_epi16(whole, bytes);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(bytes, 8));
  }
  // Outputs 0 to 7 and 8 to 15, both halves added.
  void sums(__m256i (&out)[2]) const {
    const __m256i even = _mm256_sub_epi16(whole, _mm256_slli_epi16(odd, 8));
    const __m256i a = _mm256_unpacklo_epi16(even, odd), b = _mm256_unpackhi_epi16(even, odd);
    const __m256i all =
        _mm256_add_epi16(_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31));
    out[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(all));
    out[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(all, 1));
  }
};

// Adds the entries of some steps of every lane, a pair of rows or one row: `total` and, of pairs, their high
// halves.
template <int Lanes, bool Paired, int Steps>
inline void add_steps(const uint8_t* tables, const uint8_t* strip, __m256i (&total)[Lanes],
                      __m256i (&high)[Lanes]) {
  const __m256i nibble = _mm256_set1_epi8(15);
  __m256i part[Lanes];
#pragma GCC unroll 8
  for (int i = 0; i < 2 * Steps; ++i) {
    __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(strip) + i / 2);
    if (i % 2) w = _mm256_srli_epi16(w, 4);
    w = _mm256_and_si256(w, nibble);
#pragma GCC unroll 4
    for (int lane = 0; lane < Lanes; ++lane) {
      const __m256i* two =
          reinterpret_cast<const __m256i*>(tables + (i / 2 * Lanes + lane) * kStepTables) + i % 2;
      const __m256i found = _mm256_shuffle_epi8(_mm256_load_si256(two), w);
      if constexpr (!Paired) {
        total[lane] = _mm256_add_epi8(total[lane], found);
        continue;
      }
      part[lane] = i % 3 ? _mm256_add_epi8(part[lane], found) : found;
      if (i % 3 == 2 || i + 1 == 2 * Steps) {
        total[lane] = _mm256_add_epi8(total[lane], part[lane]);
        high[lane] = _mm256_add_epi8(high[lane], _mm256_and_si256(_mm256_srli_epi16(part[lane], 4), nibble));
      }
    }
  }
}

// Adds up to kStepsTogether steps to the counts of the rows of every lane.
template <int Lanes, bool Paired>
inline void add_chunk(const uint8_t* tables, const uint8_t* strip, int64_t steps,
                      Counts (&counts)[Paired ? 2 * Lanes : Lanes]) {
  __m256i total[Lanes], high[Lanes];
#pragma GCC unroll 4
  for (int lane = 0; lane < Lanes; ++lane) total[lane] = high[lane] = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 3 <= steps; i += 3) {
    add_steps<Lanes, Paired, 3>(tables + i * Lanes * kStepTables, strip + i * 32, total, high);
  }
  for (; i < steps; ++i) {
    add_steps<Lanes, Paired, 1>(tables + i * Lanes * kStepTables, strip + i * 32, total, high);
  }
#pragma GCC unroll 4
  for (int lane = 0; lane < Lanes; ++lane) {
    if constexpr (Paired) {
      const __m256i raised = _mm256_and_si256(_mm256_slli_epi16(high[lane], 4), _mm256_set1_epi8(-16));
      counts[2 * lane].add(_mm256_sub_epi8(total[lane], raised));
      counts[2 * lane + 1].add(high[lane]);
    } else {
      counts[lane].add(total[lane]);
    }
  }
}

// The rows of some lanes times strips [first, last).
template <int Lanes, bool Paired>
void multiply_lanes(const uint8_t* tables, const BitTiles& weight, int64_t first, int64_t last, float* out,
                    int64_t out_stride) {
  constexpr int kRows = Paired ? 2 * Lanes : Lanes;
  const int64_t steps = steps_of(weight.columns), bytes = strip_bytes(weight.columns);
  const __m256i columns = _mm256_set1_epi32(static_cast<int32_t>(weight.columns));
  for (int64_t begin = 0; begin < steps; begin += kWindow) {
    const int64_t end = steps - begin < kWindow ? steps : begin + kWindow;
    for (int64_t s = first; s < last; ++s) {
      Counts counts[kRows];
      for (int64_t from = begin; from < end; from += kStepsTogether) {
        add_chunk<Lanes, Paired>(tables + from * Lanes * kStepTables, weight.bits + s * bytes + from * 32,
                                 end - from < kStepsTogether ? end - from : kStepsTogether, counts);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        float* y = out + r * out_stride + s * 16;
        __m256i sums[2];
        counts[r].sums(sums);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          // Until the last window the counts lie where the products will.
          __m256i* place = reinterpret_cast<__m256i*>(y + 8 * i);
          const __m256i sum = begin ? _mm256_add_epi32(sums[i], _mm256_loadu_si256(place)) : sums[i];
          if (end < steps) {
            _mm256_storeu_si256(place, sum);
            continue;
          }
          const __m256 dot = _mm256_cvtepi32_ps(_mm256_sub_epi32(columns, _mm256_add_epi32(sum, sum)));
          const __m256 scaled = _mm256_mul_ps(dot, _mm256_loadu_ps(weight.scales + s * 16 + 8 * i));
          _mm256_storeu_ps(y + 8 * i, _mm256_add_ps(_mm256_setzero_ps(), scaled));
        }
      }
    }
  }
}

void multiply(const void* panel, int64_t rows, const BitTiles* weight, int64_t first, int64_t last,
              float* out, int64_t out_stride) {
  static constexpr decltype(&multiply_lanes<1, true>) kTable[kPairs] = {
      multiply_lanes<1, true>, multiply_lanes<2, true>, multiply_lanes<3, true>, multiply_lanes<4, true>};
  const uint8_t* group = static_cast<const uint8_t*>(panel);
  for (int64_t top = 0; top < rows; top += 2 * kPairs) {
    const int64_t some = rows - top < 2 * kPairs ? rows - top : 2 * kPairs, pairs = some / 2;
    if (pairs) kTable[pairs - 1](group, *weight, first, last, out + top * out_stride, out_stride);
    group += pairs * steps_of(weight->columns) * kStepTables;
    if (some % 2) {
      multiply_lanes<1, false>(group, *weight, first, last, out + (rows - 1) * out_stride, out_stride);
    }
  }
}

void binarize_floats(const float* x, int64_t n, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 above = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_GT_OQ);
    bits[i / 8] = static_cast<uint8_t>(_mm256_movemask_ps(above));
  }
  if (i < n) binarize(x + i, n - i, bits + i / 8);
}

void binarize_bytes(const int8_t* codes, int64_t n, uint8_t* bits) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i));
    const int mask = _mm256_movemask_epi8(_mm256_cmpgt_epi8(x, _mm256_setzero_si256()));
    __builtin_memcpy(bits + i / 8, &mask, sizeof mask);
  }
  if (i < n) binarize_codes(codes + i, n - i, bits + i / 8);
}

}  // namespace

extern const XnorKernels kXnor = {
    "vpshufb into tables of counts", panel_bytes, prepare, multiply, binarize_floats, binarize_bytes};

}  // namespace bqc::avx2
