// Weights of signs at the level that runs anywhere: plain loops.
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::portable {

#include "kernels/blocks.inc"
#include "kernels/plain_panel.inc"

namespace {

constexpr int64_t kRowsAtOnce = 8;

// A tile [2][16] of bytes as signs [16 inputs][16 outputs].
inline void unpack_signs(const uint8_t* __restrict tile, int16_t* __restrict signs) {
  for (int h = 0; h < 2; ++h) {
    for (int b = 0; b < 8; ++b) {
      int16_t* to = signs + (b / 4 * 8 + h * 4 + b % 4) * 16;
      for (int n = 0; n < 16; ++n) to[n] = static_cast<int16_t>((tile[h * 16 + n] >> b & 1) * 2 - 1);
    }
  }
}

// The products of 16 inputs, which 16 bits hold.
inline void add_tile(const int16_t* __restrict signs, const int8_t* x, int32_t* __restrict dot) {
  int16_t sums[16] = {};
  for (int k = 0; k < 16; ++k) {
    const int16_t code = x[k];
    for (int n = 0; n < 16; ++n) sums[n] = static_cast<int16_t>(sums[n] + signs[16 * k + n] * code);
  }
  for (int n = 0; n < 16; ++n) dot[n] += sums[n];
}

void multiply(const Geometry* g, const void* panel, int64_t rows, const SignPlanes* planes, int64_t first,
              int64_t last, float* out, int64_t out_stride) {
  const int8_t* data = static_cast<const int8_t*>(panel);
  const float* scales = reinterpret_cast<const float*>(data + codes_bytes(*g, rows));
  const int64_t inputs = padded_inputs(*g), strip_bytes = inputs * 2,
                plane_bytes = planes->strips * strip_bytes;
  for (int64_t s = first; s < last; ++s) {
    const uint8_t* strip = planes->bits + s * strip_bytes;
    for (int64_t top = 0; top < rows; top += kRowsAtOnce) {
      const int64_t some = rows - top < kRowsAtOnce ? rows - top : kRowsAtOnce;
      each_padded_block(*g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
        float sums[kRowsAtOnce][16];
        for (int64_t p = 0; p < planes->count; ++p) {
          int32_t dot[kRowsAtOnce][16] = {};
          for (int64_t k = at; k < at + wide; k += 16) {
            int16_t signs[256];
            unpack_signs(strip + p * plane_bytes + k * 2, signs);
            for (int64_t r = 0; r < some; ++r) add_tile(signs, data + (top + r) * inputs + k, dot[r]);
          }
          const float* scale = planes->scales + (p * planes->strips + s) * 16;
          for (int64_t r = 0; r < some; ++r) {
            for (int n = 0; n < 16; ++n) {
              const float part = static_cast<float>(dot[r][n]) * scale[n];
              sums[r][n] = p ? sums[r][n] + part : part;
            }
          }
        }
        for (int64_t r = 0; r < some; ++r) {
          const float scale = scales[(top + r) * g->count + i];
          float* y = out + (top + r) * out_stride + s * 16;
          for (int n = 0; n < 16; ++n) y[n] = (i ? y[n] : 0.0f) + sums[r][n] * scale;
        }
      });
    }
  }
}

}  // namespace

extern const SignKernels kSigns = {"plain loops", panel_bytes, prepare, multiply};

}  // namespace bqc::portable
