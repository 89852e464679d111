// AVX2: bytes widened to 16 bits and multiplied by vpmaddwd, which cannot saturate here.
//
// vpmaddubsw would be faster but saturates: 255 * 127 * 2 exceeds 16 bits. Accumulators hold, for every
// output, the sums of even and odd pairs of inputs side by side, and are added up when a block ends.
#include "kernels/kernels.h"

#include <immintrin.h>

#include "kernels/constants.h"

namespace bqc::avx2 {

#include "kernels/pack.inc"
#include "kernels/rows.inc"

namespace {

constexpr int kMaxRows = 2;

// A panel: activations widened to int16 [rows][padded inputs], then corrections and scales [rows][count].
inline int64_t codes_bytes(const Geometry& g, int64_t rows) {
  return padded(rows * padded_inputs(g) * 2, 64);
}

int64_t panel_bytes(const Geometry* g, int64_t rows) { return codes_bytes(*g, rows) + 8 * rows * g->count; }

inline void widen(const int8_t* __restrict codes, int64_t n, int16_t* __restrict out) {
  for (int64_t i = 0; i < n; ++i) out[i] = codes[i];
}

void prepare(const Geometry* g, int bits, const int8_t* codes, int64_t stride, const int8_t* exponents,
             int64_t exponent_stride, int64_t rows, void* panel) {
  int16_t* data = static_cast<int16_t*>(panel);
  int32_t* corrections = reinterpret_cast<int32_t*>(static_cast<char*>(panel) + codes_bytes(*g, rows));
  float* scales = reinterpret_cast<float*>(corrections + rows * g->count);
  const int64_t inputs = padded_inputs(*g);
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = codes + r * stride;
    each_padded_block(*g, [&](int64_t i, int64_t start, int64_t size, int64_t at, int64_t wide) {
      int16_t* out = data + r * inputs + at;
      widen(row + start, size, out);
      for (int64_t j = size; j < wide; ++j) out[j] = 0;
      corrections[r * g->count + i] = -(1 << (bits - 1)) * sum_of(row + start, size);
      scales[r * g->count + i] = power_of_two(exponents[r * exponent_stride + i]);
    });
  }
}

// acc[q] += four outputs times four inputs; w: 16 stored weights of outputs 4q .. 4q + 3.
template <int Rows>
inline void dot_quarter(__m256i (&acc)[Rows][4], int q, __m128i w, const int16_t* x, int64_t inputs) {
  const __m256i wide = _mm256_cvtepu8_epi16(w);
#pragma GCC unroll 4
  for (int r = 0; r < Rows; ++r) {
    int64_t four;
    __builtin_memcpy(&four, x + r * inputs, 8);
    acc[r][q] = _mm256_add_epi32(acc[r][q], _mm256_madd_epi16(wide, _mm256_set1_epi64x(four)));
  }
}

// Sums of 16 outputs in order, from four accumulators of even and odd sums.
inline void add_pairs(const __m256i (&acc)[4], __m256i* low, __m256i* high) {
  *low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[0], acc[1]), 0xd8);
  *high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(acc[2], acc[3]), 0xd8);
}

inline __m256 weight_scale(const int8_t* e) {
  const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(e)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(wide, _mm256_set1_epi32(127)), 23));
}

inline void flush(float* y, bool first, __m256i dot, __m256 weight, __m256 scale) {
  const __m256 part = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), weight), scale);
  const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
  _mm256_storeu_ps(y, _mm256_add_ps(before, part));
}

template <int Bits, int Rows>
void product(const Geometry& g, const int16_t* x, const int32_t* corrections, const float* scales,
             const uint8_t* strip, int64_t inputs, const int8_t* weight_exponents, int64_t exponent_stride,
             float* out, int64_t out_stride) {
  const __m128i nibble = _mm_set1_epi8(15), top_bits = _mm_set1_epi8(0x30), pair = _mm_set1_epi8(3);
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    __m256i acc[Rows][4];
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) acc[r][q] = _mm256_setzero_si256();
    }
    const int16_t* four = x + at;
    if constexpr (Bits == 8) {
      const uint8_t* tile = strip + at * 16;
      for (const uint8_t* end = tile + wide * 16; tile != end; tile += 64, four += 4) {
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
          dot_quarter<Rows>(acc, q, _mm_loadu_si128(reinterpret_cast<const __m128i*>(tile) + q), four,
                            inputs);
        }
      }
    } else if constexpr (Bits == 2) {
      const uint8_t* pairs = strip + at * 4;
      for (const uint8_t* end = pairs + wide * 4; pairs != end; pairs += 64, four += 16) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) {
            const __m128i p = _mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs) + q);
            dot_quarter<Rows>(acc, q, _mm_and_si128(_mm_srli_epi16(p, 2 * t), pair), four + 4 * t, inputs);
          }
        }
      }
    } else {
      const uint8_t* low = strip + at * 8;
      const uint8_t* high = strip + inputs * 8 + at * 4;
      for (const uint8_t* end = low + wide * 8; low != end; low += 128, high += 64, four += 16) {
#pragma GCC unroll 4
        for (int t = 0; t < 4; ++t) {
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) {
            const __m128i two = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low + t / 2 * 64) + q);
            __m128i w = _mm_and_si128(t % 2 ? _mm_srli_epi16(two, 4) : two, nibble);
            if constexpr (Bits == 6) {
              const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(high) + q);
              const __m128i moved = t == 0   ? _mm_slli_epi16(h, 4)
                                    : t == 1 ? _mm_slli_epi16(h, 2)
                                    : t == 2 ? h
                                             : _mm_srli_epi16(h, 2);
              w = _mm_or_si128(w, _mm_and_si128(moved, top_bits));
            }
            dot_quarter<Rows>(acc, q, w, four + 4 * t, inputs);
          }
        }
      }
    }
    const int8_t* e = weight_exponents + i * exponent_stride;
    const __m256 weight_low = weight_scale(e), weight_high = weight_scale(e + 8);
#pragma GCC unroll 4
    for (int r = 0; r < Rows; ++r) {
      __m256i low, high;
      add_pairs(acc[r], &low, &high);
      const __m256i correction = _mm256_set1_epi32(corrections[r * g.count + i]);
      const __m256 scale = _mm256_set1_ps(scales[r * g.count + i]);
      float* y = out + r * out_stride;
      flush(y, i == 0, _mm256_add_epi32(low, correction), weight_low, scale);
      flush(y + 8, i == 0, _mm256_add_epi32(high, correction), weight_high, scale);
    }
  });
}

template <int Bits>
void multiply_bits(const Geometry& g, const void* panel, int64_t rows, const uint8_t* weight,
                   const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
                   int64_t out_stride) {
  const int16_t* data = static_cast<const int16_t*>(panel);
  const int32_t* corrections =
      reinterpret_cast<const int32_t*>(static_cast<const char*>(panel) + codes_bytes(g, rows));
  const float* scales = reinterpret_cast<const float*>(corrections + rows * g.count);
  const int64_t inputs = padded_inputs(g), strip_bytes = inputs * Bits * 2;
  for (int64_t s = first; s < last; ++s) {
    for (int64_t top = 0; top < rows; top += kMaxRows) {
      const auto run = rows - top >= kMaxRows ? product<Bits, kMaxRows> : product<Bits, 1>;
      run(g, data + top * inputs, corrections + top * g.count, scales + top * g.count,
          weight + s * strip_bytes, inputs, weight_exponents + s * 16, strips * 16,
          out + top * out_stride + s * 16, out_stride);
    }
  }
}

void multiply(const Geometry* g, int bits, const void* panel, int64_t rows, const uint8_t* weight,
              const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
              int64_t out_stride) {
  const auto run = bits == 8   ? multiply_bits<8>
                   : bits == 6 ? multiply_bits<6>
                   : bits == 4 ? multiply_bits<4>
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

constexpr GemmKernels kGemm = {panel_bytes, prepare, multiply, pack_keys, pack_values, mix};

}  // namespace

extern const KernelSet kKernels = {"avx2", &kRows, &kGemm};

}  // namespace bqc::avx2
