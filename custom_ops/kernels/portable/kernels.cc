// The level that runs anywhere: plain loops.
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "kernels/constants.h"
#include "kernels/kernels.h"

namespace bqc::portable {

#include "kernels/pack.inc"
#include "kernels/rows.inc"
#include "kernels/simple_panel.inc"

namespace {

bool supports(int bits) { return bits == 8 || bits == 6 || bits == 4 || bits == 3 || bits == 2; }

// 16 inputs of 16 outputs as bytes [4][16][4]; `at` is their first input.
inline void unpack_tiles(const uint8_t* strip, int bits, int64_t inputs, int64_t at,
                         uint8_t* __restrict out) {
  if (bits == 8) {
    __builtin_memcpy(out, strip + at * 16, 256);
    return;
  }
  if (bits <= 3) {
    const uint8_t* __restrict pairs = strip + at * 4;
    for (int i = 0; i < 64; ++i) {
      out[i] = pairs[i] & 3;
      out[64 + i] = pairs[i] >> 2 & 3;
      out[128 + i] = pairs[i] >> 4 & 3;
      out[192 + i] = pairs[i] >> 6;
    }
    if (bits == 2) return;
    const uint8_t* __restrict singles = strip + inputs * 4 + at / 32 * 64;
    const int first = at % 32 ? 4 : 0;
    for (int i = 0; i < 64; ++i) {
      const int four = singles[i] >> first;
      out[i] = static_cast<uint8_t>(out[i] | (four & 1) << 2);
      out[64 + i] = static_cast<uint8_t>(out[64 + i] | (four & 2) << 1);
      out[128 + i] = static_cast<uint8_t>(out[128 + i] | (four & 4));
      out[192 + i] = static_cast<uint8_t>(out[192 + i] | (four & 8) >> 1);
    }
    return;
  }
  const uint8_t* __restrict low = strip + at * 8;
  for (int i = 0; i < 64; ++i) {
    out[i] = low[i] & 15;
    out[64 + i] = low[i] >> 4;
    out[128 + i] = low[64 + i] & 15;
    out[192 + i] = low[64 + i] >> 4;
  }
  if (bits == 4) return;
  const uint8_t* __restrict high = strip + inputs * 8 + at * 4;
  for (int i = 0; i < 64; ++i) {
    out[i] = static_cast<uint8_t>(out[i] | (high[i] & 3) << 4);
    out[64 + i] = static_cast<uint8_t>(out[64 + i] | (high[i] >> 2 & 3) << 4);
    out[128 + i] = static_cast<uint8_t>(out[128 + i] | (high[i] >> 4 & 3) << 4);
    out[192 + i] = static_cast<uint8_t>(out[192 + i] | (high[i] >> 6) << 4);
  }
}

template <class Weight>
inline void dot_tile(const Weight* __restrict tile, int a, int b, int c, int d, int32_t* __restrict dot) {
  for (int n = 0; n < 16; ++n) {
    dot[n] += tile[4 * n] * a + tile[4 * n + 1] * b + tile[4 * n + 2] * c + tile[4 * n + 3] * d;
  }
}

void multiply(const Geometry* g, int bits, const void* panel, int64_t rows, const uint8_t* weight,
              const int8_t* weight_exponents, int64_t strips, int64_t first, int64_t last, float* out,
              int64_t out_stride) {
  constexpr int64_t kRowsAtOnce = 8;
  const int8_t* data = static_cast<const int8_t*>(panel);
  const int32_t* corrections = reinterpret_cast<const int32_t*>(data + codes_bytes(*g, rows));
  const float* scales = reinterpret_cast<const float*>(corrections + rows * g->count);
  const int64_t inputs = padded_inputs(*g), strip_bytes = tile_bytes(inputs, bits);
  for (int64_t s = first; s < last; ++s) {
    const uint8_t* strip = weight + s * strip_bytes;
    for (int64_t top = 0; top < rows; top += kRowsAtOnce) {
      const int64_t some = rows - top < kRowsAtOnce ? rows - top : kRowsAtOnce;
      each_padded_block(*g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
        int32_t dot[kRowsAtOnce][16];
        for (int64_t r = 0; r < some; ++r) {
          for (int n = 0; n < 16; ++n) dot[r][n] = corrections[(top + r) * g->count + i];
        }
        for (int64_t k = at; k < at + wide; k += 16) {
          uint8_t tiles[256];
          unpack_tiles(strip, bits, inputs, k, tiles);
          for (int64_t r = 0; r < some; ++r) {
            const int8_t* x = data + (top + r) * inputs + k;
            for (int t = 0; t < 4; ++t) {
              dot_tile(tiles + 64 * t, x[4 * t], x[4 * t + 1], x[4 * t + 2], x[4 * t + 3], dot[r]);
            }
          }
        }
        const int8_t* e = weight_exponents + i * strips * 16 + s * 16;
        for (int64_t r = 0; r < some; ++r) {
          const float scale = scales[(top + r) * g->count + i];
          float* y = out + (top + r) * out_stride + s * 16;
          for (int n = 0; n < 16; ++n) {
            y[n] = (i ? y[n] : 0.0f) + static_cast<float>(dot[r][n]) * power_of_two(e[n]) * scale;
          }
        }
      });
    }
  }
}

void mix(const uint8_t* probabilities, int64_t stride, int64_t rows, const int8_t* tiles, int64_t keys,
         int64_t strips, int32_t* out, int64_t out_stride) {
  const int64_t steps = padded(keys, 4) / 4;
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* p = probabilities + r * stride;
    for (int64_t s = 0; s < strips; ++s) {
      int32_t dot[16] = {};
      const int8_t* tile = tiles + s * steps * 64;
      for (int64_t k = 0; k < steps; ++k) {
        dot_tile(tile + 64 * k, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], dot);
      }
      __builtin_memcpy(out + r * out_stride + s * 16, dot, sizeof dot);
    }
  }
}

constexpr GemmKernels kGemm = {supports, panel_bytes, prepare, multiply, pack_keys, pack_values, mix};

}  // namespace

extern const KernelSet kKernels = {"portable", "plain loops", &kRows,   &kGemm,          &kSigns,
                                   &kXnor,     &kHalf,        &kSparse, &kFloatAttention};

}  // namespace bqc::portable
