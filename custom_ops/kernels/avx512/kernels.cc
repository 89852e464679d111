// AVX-512 with VNNI: vpdpbusd multiplies unsigned weights with a broadcast of four signed activations.
//
// The weight tiles are read in place: a tile is exactly one register of 16 outputs times 4 inputs. Stored
// weights are codes + 2**(bits - 1), so a block's accumulators start at minus that offset times the sum of
// its activations.
#include "kernels/kernels.h"

#include <immintrin.h>

#include "kernels/constants.h"

namespace bqc::avx512 {

#include "kernels/ahead.inc"
#include "kernels/pack.inc"
#include "kernels/rows.inc"

// Uses what rows.inc has.
#include "kernels/avx512/rows.inc"

namespace {

// 12 accumulators, enough to hide the latency of vpdpbusd, and as many sums of blocks.
constexpr int kMaxRows = 6;

bool supports(int bits) { return bits == 8 || bits == 6 || bits == 4 || bits == 3 || bits == 2; }

// A panel: codes [rows][padded inputs], then corrections and powers [rows][count], then whether a power is
// far.
//
// A power is an exponent where a float has its own. Exponents of activations and of weights that are near can
// be added there, and a dot product times 2**sum is exact: it is at least 2**-126, and below 2**127.
inline int64_t codes_bytes(const Geometry& g, int64_t rows) { return padded(rows * padded_inputs(g), 64); }

int64_t panel_bytes(const Geometry* g, int64_t rows) {
  return codes_bytes(*g, rows) + 8 * rows * g->count + 8;
}

constexpr int kNearest = -63, kNear = 48, kMantissa = 23, kBias = 127;

inline bool is_far(int exponent) { return exponent < kNearest || exponent > kNear; }

// Copies codes and returns their sum, and whether one is not 0.
inline int32_t copy_codes(const int8_t* codes, int64_t n, int8_t* to, bool* some) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512(), any = sums;
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i x = _mm512_loadu_si512(codes + i);
    _mm512_storeu_si512(to + i, x);
    sums = _mm512_dpbusd_epi32(sums, ones, x);
    any = _mm512_or_si512(any, x);
  }
  if (i < n) {
    const __m512i x = _mm512_maskz_loadu_epi8(lanes64(n - i), codes + i);
    _mm512_mask_storeu_epi8(to + i, lanes64(n - i), x);
    sums = _mm512_dpbusd_epi32(sums, ones, x);
    any = _mm512_or_si512(any, x);
  }
  *some = _mm512_test_epi32_mask(any, any) != 0;
  return _mm512_reduce_add_epi32(sums);
}

void prepare(const Geometry* g, int bits, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  int8_t* data = static_cast<int8_t*>(panel);
  int32_t* corrections = reinterpret_cast<int32_t*>(data + codes_bytes(*g, rows));
  int32_t* powers = corrections + rows * g->count;
  const int64_t inputs = padded_inputs(*g);
  bool far = false;
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = codes + r * stride;
    int8_t* out = data + r * inputs;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      bool some;
      corrections[r * g->count + i] = -(1 << (bits - 1)) * copy_codes(row + start, size, out + at, &some);
      // Nothing but zeros has any power, and often the least there is.
      const int exponent = some ? looked_up(exponents[r * exponent_stride + i]) : 0;
      powers[r * g->count + i] = exponent * (1 << kMantissa);
      far |= is_far(exponent);
      for (int64_t j = size; j < wide; ++j) out[at + j] = 0;
    });
  }
  powers[rows * g->count] = far;
}

inline __m512i broadcast(const int8_t* four) {
  int32_t word;
  __builtin_memcpy(&word, four, 4);
  return _mm512_set1_epi32(word);
}

template <int Rows, int Columns>
inline void dot_step(__m512i (&acc)[Rows][Columns], const __m512i (&w)[Columns], const int8_t* x,
                     int64_t inputs) {
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
    const __m512i four = broadcast(x + r * inputs);
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) acc[r][c] = _mm512_dpbusd_epi32(acc[r][c], w[c], four);
  }
}

constexpr int64_t kAskEvery = 64;  // inputs

// 16 inputs of 3-bit weights, whose single bits begin at bit `First` of a tile that serves 32 inputs.
template <int Rows, int Columns, int First>
inline void three_bit_steps(__m512i (&acc)[Rows][Columns], const uint8_t* pairs, const uint8_t* singles,
                            int64_t strip_bytes, const int8_t* x, int64_t inputs) {
  const __m512i pair = _mm512_set1_epi8(3), single = _mm512_set1_epi8(4);
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    const int right = First + t - 2;
    __m512i w[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const __m512i p = _mm512_loadu_si512(pairs + c * strip_bytes),
                    s = _mm512_loadu_si512(singles + c * strip_bytes);
      const __m512i moved = right < 0 ? _mm512_slli_epi16(s, static_cast<unsigned>(-right))
                                      : _mm512_srli_epi16(s, static_cast<unsigned>(right));
      const __m512i low = _mm512_and_si512(_mm512_srli_epi16(p, static_cast<unsigned>(2 * t)), pair);
      w[c] = _mm512_or_si512(low, _mm512_and_si512(moved, single));
    }
    dot_step<Rows, Columns>(acc, w, x + 4 * t, inputs);
  }
}

// sum + dot * 2**weight exponent * 2**exponent, in this order. Only where a power may be far (`Far`) is any
// product rounded, so that elsewhere both powers are multiplied at once, with the sum.
template <bool Far>
inline __m512 add_scaled(__m512 sum, __m512i dot, __m512i weight_power, __m512i power) {
  const __m512 x = _mm512_cvtepi32_ps(dot);
  if constexpr (!Far)
    return _mm512_fmadd_ps(x, _mm512_castsi512_ps(_mm512_add_epi32(weight_power, power)), sum);
  const auto exponent = [](__m512i p) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(p, kMantissa)); };
  const __m512 weight_exponent = _mm512_sub_ps(exponent(weight_power), _mm512_set1_ps(kBias));
  return _mm512_add_ps(sum, _mm512_scalef_ps(_mm512_scalef_ps(x, weight_exponent), exponent(power)));
}

// Rows x (16 Columns) outputs, all blocks.
template <int Bits, int Rows, int Columns, bool Far>
void product(const Geometry& g, const int8_t* x, const int32_t* corrections, const int32_t* powers,
             const uint8_t* strip, int64_t inputs, const int8_t* weight_exponents, int64_t exponent_stride,
             Ahead ahead, float* out, int64_t out_stride) {
  const int64_t strip_bytes = tile_bytes(inputs, Bits), share = (ahead.end - ahead.from) * kAskEvery / inputs;
  const __m512i nibble = _mm512_set1_epi8(15), top_bits = _mm512_set1_epi8(0x30), pair = _mm512_set1_epi8(3);
  __m512 sums[Rows][Columns];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) sums[r][c] = _mm512_setzero_ps();
  }
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    __m512i acc[Rows][Columns];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) acc[r][c] = _mm512_set1_epi32(corrections[r * g.count + i]);
    }
    for (int64_t from = at; from < at + wide; from += kAskEvery) {
      const int64_t left = at + wide - from, size = left < kAskEvery ? left : kAskEvery;
      ahead.ask(share);
      const int8_t* four = x + from;
      if constexpr (Bits == 8) {
        const uint8_t* tile = strip + from * 16;
        for (const uint8_t* end = tile + size * 16; tile != end; tile += 256, four += 16) {
#pragma GCC unroll 4
          for (int t = 0; t < 4; ++t) {
            __m512i w[Columns];
#pragma GCC unroll 4
            for (int c = 0; c < Columns; ++c) w[c] = _mm512_loadu_si512(tile + 64 * t + c * strip_bytes);
            dot_step<Rows, Columns>(acc, w, four + 4 * t, inputs);
          }
        }
      } else if constexpr (Bits == 3) {
        const uint8_t* pairs = strip + from * 4;
        const uint8_t* singles = strip + inputs * 4;
        for (int64_t k = from; k < from + size; k += 16, pairs += 64, four += 16) {
          const uint8_t* eight = singles + k / 32 * 64;
          if (k % 32 == 0) {
            three_bit_steps<Rows, Columns, 0>(acc, pairs, eight, strip_bytes, four, inputs);
          } else {
            three_bit_steps<Rows, Columns, 4>(acc, pairs, eight, strip_bytes, four, inputs);
          }
        }
      } else if constexpr (Bits == 2) {
        const uint8_t* pairs = strip + from * 4;
        for (const uint8_t* end = pairs + size * 4; pairs != end; pairs += 64) {
#pragma GCC unroll 4
          for (int t = 0; t < 4; ++t, four += 4) {
            __m512i w[Columns];
#pragma GCC unroll 4
            for (int c = 0; c < Columns; ++c) {
              const __m512i p = _mm512_loadu_si512(pairs + c * strip_bytes);
              w[c] = _mm512_and_si512(_mm512_srli_epi16(p, static_cast<unsigned>(2 * t)), pair);
            }
            dot_step<Rows, Columns>(acc, w, four, inputs);
          }
        }
      } else {
        const uint8_t* low = strip + from * 8;
        const uint8_t* high = strip + inputs * 8 + from * 4;
        for (const uint8_t* end = low + size * 8; low != end; low += 128, high += 64) {
#pragma GCC unroll 4
          for (int t = 0; t < 4; ++t, four += 4) {
            __m512i w[Columns];
#pragma GCC unroll 4
            for (int c = 0; c < Columns; ++c) {
              const __m512i two = _mm512_loadu_si512(low + t / 2 * 64 + c * strip_bytes);
              w[c] = _mm512_and_si512(t % 2 ? _mm512_srli_epi16(two, 4) : two, nibble);
              if constexpr (Bits == 6) {
                const __m512i h = _mm512_loadu_si512(high + c * strip_bytes);
                const __m512i moved = t == 0   ? _mm512_slli_epi16(h, 4)
                                      : t == 1 ? _mm512_slli_epi16(h, 2)
                                      : t == 2 ? h
                                               : _mm512_srli_epi16(h, 2);
                w[c] = _mm512_or_si512(w[c], _mm512_and_si512(moved, top_bits));
              }
            }
            dot_step<Rows, Columns>(acc, w, four, inputs);
          }
        }
      }
    }
    __m512i weight_power[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const __m128i e =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight_exponents + i * exponent_stride + 16 * c));
      weight_power[c] =
          _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtepi8_epi32(e), _mm512_set1_epi32(kBias)), kMantissa);
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const __m512i power = _mm512_set1_epi32(powers[r * g.count + i]);
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) {
        sums[r][c] = add_scaled<Far>(sums[r][c], acc[r][c], weight_power[c], power);
      }
    }
  });
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) _mm512_storeu_ps(out + r * out_stride + 16 * c, sums[r][c]);
  }
}

using Product = void (*)(const Geometry&, const int8_t*, const int32_t*, const int32_t*, const uint8_t*,
                         int64_t, const int8_t*, int64_t, Ahead, float*, int64_t);

template <int Bits, int Columns, bool Far>
Product product_for(int64_t rows) {
  static constexpr Product kTable[kMaxRows] = {
      product<Bits, 1, Columns, Far>, product<Bits, 2, Columns, Far>, product<Bits, 3, Columns, Far>,
      product<Bits, 4, Columns, Far>, product<Bits, 5, Columns, Far>, product<Bits, 6, Columns, Far>};
  return kTable[rows - 1];
}

// Whether a weight exponent of one or two strips is far.
bool are_far(const int8_t* exponents, int64_t count, int64_t stride, int64_t columns) {
  const __mmask32 there = columns == 2 ? ~__mmask32{0} : 0xffff;
  __m256i least = _mm256_setzero_si256(), largest = least;
  for (int64_t i = 0; i < count; ++i) {
    const __m256i e = _mm256_maskz_loadu_epi8(there, exponents + i * stride);
    least = _mm256_min_epi8(least, e);
    largest = _mm256_max_epi8(largest, e);
  }
  return (_mm256_cmplt_epi8_mask(least, _mm256_set1_epi8(kNearest)) |
          _mm256_cmpgt_epi8_mask(largest, _mm256_set1_epi8(kNear))) != 0;
}

template <int Bits>
void multiply_bits(const Geometry& g, const void* panel, int64_t rows, const uint8_t* weight,
                   const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
                   int64_t out_stride) {
  const int8_t* data = static_cast<const int8_t*>(panel);
  const int32_t* corrections = reinterpret_cast<const int32_t*>(data + codes_bytes(g, rows));
  const int32_t* powers = corrections + rows * g.count;
  const int64_t inputs = padded_inputs(g), strip_bytes = tile_bytes(inputs, Bits);
  for (int64_t s = first; s < last;) {
    const int64_t columns = last - s >= 2 ? 2 : 1, then = last - s - columns;
    const int64_t soon = then < 2 ? then : 2;
    const Ahead ahead = Ahead::of(weight + (s + columns) * strip_bytes, soon * strip_bytes);
    const bool far =
        powers[rows * g.count] || are_far(weight_exponents + s * 16, g.count, strips * 16, columns);
    const auto product_of = columns == 2 ? far ? product_for<Bits, 2, true> : product_for<Bits, 2, false>
                            : far        ? product_for<Bits, 1, true>
                                         : product_for<Bits, 1, false>;
    each_row_tile(rows, kMaxRows, [&](int64_t top, int64_t some) {
      const Product run = product_of(some);
      run(g, data + top * inputs, corrections + top * g.count, powers + top * g.count,
          weight + s * strip_bytes, inputs, weight_exponents + s * 16, strips * 16,
          ahead.part(top, top + some, rows), out + top * out_stride + s * 16, out_stride);
    });
    s += columns;
  }
}

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

template <int Rows, int Columns>
void mix_tile(const uint8_t* p, int64_t stride, const int8_t* tiles, int64_t steps, int32_t* out,
              int64_t out_stride) {
  __m512i acc[Rows][Columns];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) acc[r][c] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < steps; ++k) {
    __m512i v[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) v[c] = _mm512_loadu_si512(tiles + (c * steps + k) * 64);
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const __m512i four = broadcast(reinterpret_cast<const int8_t*>(p + r * stride + 4 * k));
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) acc[r][c] = _mm512_dpbusd_epi32(acc[r][c], four, v[c]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) _mm512_storeu_si512(out + r * out_stride + 16 * c, acc[r][c]);
  }
}

template <int Columns>
void mix_rows(const uint8_t* p, int64_t stride, int64_t rows, const int8_t* tiles, int64_t steps,
              int32_t* out, int64_t out_stride) {
  constexpr decltype(&mix_tile<1, Columns>) kTable[6] = {mix_tile<1, Columns>, mix_tile<2, Columns>,
                                                         mix_tile<3, Columns>, mix_tile<4, Columns>,
                                                         mix_tile<5, Columns>, mix_tile<6, Columns>};
  each_row_tile(rows, 6, [&](int64_t top, int64_t some) {
    kTable[some - 1](p + top * stride, stride, tiles, steps, out + top * out_stride, out_stride);
  });
}

void mix(const uint8_t* probabilities, int64_t stride, int64_t rows, const int8_t* tiles, int64_t keys,
         int64_t strips, int32_t* out, int64_t out_stride) {
  const int64_t steps = padded(keys, 4) / 4;
  for (int64_t s = 0; s < strips;) {
    const int64_t columns = strips - s >= 4 ? 4 : strips - s >= 2 ? 2 : 1;
    const auto run = columns == 4 ? mix_rows<4> : columns == 2 ? mix_rows<2> : mix_rows<1>;
    run(probabilities, stride, rows, tiles + s * steps * 64, steps, out + s * 16, out_stride);
    s += columns;
  }
}

constexpr GemmKernels kGemm = {supports, panel_bytes, prepare, multiply, pack_keys, pack_values, mix};

}  // namespace

extern const KernelSet kKernels = {"avx512", "vpdpbusd", &kFastRows, &kGemm,          &kSigns,
                                   &kXnor,   &kHalf,     &kSparse,   &kFloatAttention};

}  // namespace bqc::avx512

namespace bqc::avx512_vbmi {

extern const KernelSet kKernels = {"avx512_vbmi",  "vpdpbusd", &avx512::kFastRows,
                                   &avx512::kGemm, &kSigns,    &kXnor,
                                   &kHalf,         &kSparse,   &avx512::kFloatAttention};

}  // namespace bqc::avx512_vbmi
