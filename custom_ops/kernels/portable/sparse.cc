// N:M-sparse weights at the level that runs anywhere: plain loops over unpacked steps.
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::portable {

#include "kernels/blocks.inc"
#include "kernels/plain_panel.inc"
#include "kernels/sparse.inc"

namespace {

constexpr int64_t kRowsAtOnce = 8;

// A step as weights [inputs][16 outputs].
inline void unpack_step(const SparseTiles& w, const SparseStrip& strip, int64_t step,
                        int16_t* __restrict weights) {
  for (int64_t i = 0; i < step_inputs(w) * 16; ++i) weights[i] = 0;
  const uint8_t* codes = strip.codes + step * 8 * w.bits;
  for (int p = 0; p < 64; ++p) {
    const int code = w.bits == 8 ? codes[p] - 128 : (codes[p % 32] >> p / 32 * 4 & 15) - 8;
    int index = strip.low[step * 16 + p % 16] >> p / 16 * 2 & 3;
    if (w.of == 8) index |= (strip.high[step * 8 + p % 8] >> p / 8 & 1) << 2;
    weights[(p % 4 / w.kept * w.of + index) * 16 + p / 4] = static_cast<int16_t>(code);
  }
}

inline void add_step(const int16_t* __restrict weights, const int8_t* x, int64_t inputs,
                     int32_t* __restrict dot) {
  for (int64_t k = 0; k < inputs; ++k) {
    const int16_t code = x[k];
    for (int n = 0; n < 16; ++n) dot[n] += weights[16 * k + n] * code;
  }
}

void multiply(const Geometry* g, const void* panel, int64_t rows, const SparseTiles* weight, int64_t first,
              int64_t last, float* out, int64_t out_stride) {
  const int8_t* data = static_cast<const int8_t*>(panel);
  const float* scales = reinterpret_cast<const float*>(data + codes_bytes(*g, rows));
  const int64_t inputs = padded_inputs(*g), some_inputs = step_inputs(*weight);
  for (int64_t s = first; s < last; ++s) {
    const SparseStrip strip = strip_of(*weight, inputs, s);
    for (int64_t top = 0; top < rows; top += kRowsAtOnce) {
      const int64_t some = rows - top < kRowsAtOnce ? rows - top : kRowsAtOnce;
      each_padded_block(*g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
        int32_t dot[kRowsAtOnce][16] = {};
        for (int64_t k = at; k < at + wide; k += some_inputs) {
          int16_t weights[256];
          unpack_step(*weight, strip, k / some_inputs, weights);
          for (int64_t r = 0; r < some; ++r) {
            add_step(weights, data + (top + r) * inputs + k, some_inputs, dot[r]);
          }
        }
        for (int64_t r = 0; r < some; ++r) {
          const float scale = scales[(top + r) * g->count + i];
          float* y = out + (top + r) * out_stride + s * 16;
          for (int n = 0; n < 16; ++n) {
            y[n] = (i ? y[n] : 0.0f) + static_cast<float>(dot[r][n]) * weight->scales[s * 16 + n] * scale;
          }
        }
      });
    }
  }
}

}  // namespace

extern const SparseKernels kSparse = {"plain loops", panel_bytes, prepare, multiply};

}  // namespace bqc::portable
