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

// A panel: codes [rows][padded inputs], then corrections and exponents [rows][count].
inline int64_t codes_bytes(const Geometry& g, int64_t rows) { return padded(rows * padded_inputs(g), 64); }

int64_t panel_bytes(const Geometry* g, int64_t rows) { return codes_bytes(*g, rows) + 8 * rows * g->count; }

// Copies codes and returns their sum.
inline int32_t copy_codes(const int8_t* codes, int64_t n, int8_t* to) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    const __m512i x = _mm512_loadu_si512(codes + i);
    _mm512_storeu_si512(to + i, x);
    sums = _mm512_dpbusd_epi32(sums, ones, x);
  }
  if (i < n) {
    const __m512i x = _mm512_maskz_loadu_epi8(lanes64(n - i), codes + i);
    _mm512_mask_storeu_epi8(to + i, lanes64(n - i), x);
    sums = _mm512_dpbusd_epi32(sums, ones, x);
  }
  return _mm512_reduce_add_epi32(sums);
}

void prepare(const Geometry* g, int bits, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  int8_t* data = static_cast<int8_t*>(panel);
  int32_t* corrections = reinterpret_cast<int32_t*>(data + codes_bytes(*g, rows));
  float* powers = reinterpret_cast<float*>(corrections + rows * g->count);
  const int64_t inputs = padded_inputs(*g);
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = codes + r * stride;
    int8_t* out = data + r * inputs;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      corrections[r * g->count + i] = -(1 << (bits - 1)) * copy_codes(row + start, size, out + at);
      powers[r * g->count + i] = static_cast<float>(exponents[r * exponent_stride + i]);
      for (int64_t j = size; j < wide; ++j) out[at + j] = 0;
    });
  }
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

// A dot product times 2**weight exponent may be beyond float32 where that exponent is larger.
constexpr int8_t kFarExponent = 96;

// dot * 2**weight exponent * 2**exponent, in this order. Neither product is rounded, but for the last one
// where it is below the normal numbers: so both powers may be multiplied at once, unless the first product
// may be too large (`Far`).
template <bool Far>
inline __m512 scaled(__m512i dot, __m512 weight_exponent, __m512 exponent) {
  const __m512 x = _mm512_cvtepi32_ps(dot);
  if constexpr (Far) return _mm512_scalef_ps(_mm512_scalef_ps(x, weight_exponent), exponent);
  return _mm512_scalef_ps(x, _mm512_add_ps(weight_exponent, exponent));
}

// Rows x (16 Columns) outputs, all blocks.
template <int Bits, int Rows, int Columns, bool Far>
void product(const Geometry& g, const int8_t* x, const int32_t* corrections, const float* exponents,
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
    __m512 weight_exponent[Columns];
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) {
      const __m128i e =
          _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight_exponents + i * exponent_stride + 16 * c));
      weight_exponent[c] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(e));
    }
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r) {
      const __m512 exponent = _mm512_set1_ps(exponents[r * g.count + i]);
#pragma GCC unroll 4
      for (int c = 0; c < Columns; ++c) {
        sums[r][c] = _mm512_add_ps(sums[r][c], scaled<Far>(acc[r][c], weight_exponent[c], exponent));
      }
    }
  });
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < Columns; ++c) _mm512_storeu_ps(out + r * out_stride + 16 * c, sums[r][c]);
  }
}

using Product = void (*)(const Geometry&, const int8_t*, const int32_t*, const float*, const uint8_t*,
                         int64_t, const int8_t*, int64_t, Ahead, float*, int64_t);

template <int Bits, int Columns>
Product product_for(int64_t rows, bool far) {
  static constexpr Product kTable[kMaxRows] = {
      product<Bits, 1, Columns, false>, product<Bits, 2, Columns, false>, product<Bits, 3, Columns, false>,
      product<Bits, 4, Columns, false>, product<Bits, 5, Columns, false>, product<Bits, 6, Columns, false>};
  return far ? product<Bits, 1, Columns, true> : kTable[rows - 1];
}

// Whether an exponent of these strips is beyond kFarExponent.
bool is_far(const int8_t* exponents, int64_t count, int64_t strips, int64_t first, int64_t last) {
  __m128i largest = _mm_set1_epi8(-128);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t s = first; s < last; ++s) {
      const int8_t* strip = exponents + (i * strips + s) * 16;
      largest = _mm_max_epi8(largest, _mm_loadu_si128(reinterpret_cast<const __m128i*>(strip)));
    }
  }
  return _mm_cmpgt_epi8_mask(largest, _mm_set1_epi8(kFarExponent)) != 0;
}

template <int Bits>
void multiply_bits(const Geometry& g, const void* panel, int64_t rows, const uint8_t* weight,
                   const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
                   int64_t out_stride) {
  const int8_t* data = static_cast<const int8_t*>(panel);
  const int32_t* corrections = reinterpret_cast<const int32_t*>(data + codes_bytes(g, rows));
  const float* exponents = reinterpret_cast<const float*>(corrections + rows * g.count);
  const int64_t inputs = padded_inputs(g), strip_bytes = tile_bytes(inputs, Bits);
  const bool far = is_far(weight_exponents, g.count, strips, first, last);
  for (int64_t s = first; s < last;) {
    const int64_t columns = last - s >= 2 ? 2 : 1, then = last - s - columns;
    // A single tile reads all weights one after the other, which the CPU does foresee.
    const int64_t soon = rows <= kMaxRows ? 0 : then < 2 ? then : 2;
    const Ahead ahead = Ahead::of(weight + (s + columns) * strip_bytes, soon * strip_bytes);
    each_row_tile(rows, far ? 1 : kMaxRows, [&](int64_t top, int64_t some) {
      const Product run = columns == 2 ? product_for<Bits, 2>(some, far) : product_for<Bits, 1>(some, far);
      run(g, data + top * inputs, corrections + top * g.count, exponents + top * g.count,
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

// What this level has no kernels of, those of AVX2 do.
extern const KernelSet kKernels = {"avx512",      "vpdpbusd",   &kFastRows, &kGemm,
                                   &avx2::kSigns, &avx2::kXnor, &kHalf,     &kSparse};

}  // namespace bqc::avx512

namespace bqc::avx512_vbmi {

extern const KernelSet kKernels = {
    "avx512_vbmi", "vpdpbusd", &avx512::kFastRows, &avx512::kGemm, &kSigns, &kXnor, &kHalf, &kSparse};

}  // namespace bqc::avx512_vbmi
