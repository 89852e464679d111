// Signs by signs on any aarch64: cnt counts the bits of every byte.
#include <arm_neon.h>

#include "kernels/kernels.h"

namespace bqc::neon {

#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

namespace {

constexpr int kRowsAtOnce = 4;

// Adds the bits that differ between rows and 16 outputs in bytes [from, to) to their sums.
template <int Rows>
inline void count(const uint8_t* x, const uint8_t* strip, int64_t columns, int64_t from, int64_t to,
                  uint32x4_t (&sums)[Rows][4]) {
  uint8x16_t counts[Rows];
  for (int r = 0; r < Rows; ++r) counts[r] = vdupq_n_u8(0);
  for (int64_t j = from; j < to; ++j) {
    const uint8x16_t w = vld1q_u8(strip + 16 * j), kept = vdupq_n_u8(kept_bits(columns, j));
    for (int r = 0; r < Rows; ++r) {
      const uint8x16_t differ = vandq_u8(veorq_u8(w, vdupq_n_u8(x[r * bytes_of(columns) + j])), kept);
      counts[r] = vaddq_u8(counts[r], vcntq_u8(differ));
    }
  }
  for (int r = 0; r < Rows; ++r) {
    const uint16x8_t low = vmovl_u8(vget_low_u8(counts[r])), high = vmovl_u8(vget_high_u8(counts[r]));
    sums[r][0] = vaddw_u16(sums[r][0], vget_low_u16(low));
    sums[r][1] = vaddw_u16(sums[r][1], vget_high_u16(low));
    sums[r][2] = vaddw_u16(sums[r][2], vget_low_u16(high));
    sums[r][3] = vaddw_u16(sums[r][3], vget_high_u16(high));
  }
}

template <int Rows>
void multiply_rows(const uint8_t* x, const BitTiles& weight, int64_t s, float* out, int64_t out_stride) {
  const int64_t bytes = bytes_of(weight.columns);
  uint32x4_t sums[Rows][4] = {};
  for (int64_t from = 0; from < bytes; from += kBytesTogether) {
    const int64_t to = bytes - from < kBytesTogether ? bytes : from + kBytesTogether;
    count<Rows>(x, weight.bits + s * strip_bytes(weight.columns), weight.columns, from, to, sums);
  }
  for (int r = 0; r < Rows; ++r) {
    int32_t plain[16];
    for (int i = 0; i < 4; ++i) vst1q_s32(plain + 4 * i, vreinterpretq_s32_u32(sums[r][i]));
    scale_counts(plain, weight.columns, weight.scales + s * 16, out + r * out_stride + s * 16);
  }
}

void multiply(const void* panel, int64_t rows, const BitTiles* weight, int64_t first, int64_t last,
              float* out, int64_t out_stride) {
  static constexpr decltype(&multiply_rows<1>) kTable[kRowsAtOnce] = {multiply_rows<1>, multiply_rows<2>,
                                                                      multiply_rows<3>, multiply_rows<4>};
  const uint8_t* x = static_cast<const uint8_t*>(panel);
  for (int64_t s = first; s < last; ++s) {
    for (int64_t top = 0; top < rows; top += kRowsAtOnce) {
      const int64_t some = rows - top < kRowsAtOnce ? rows - top : kRowsAtOnce;
      kTable[some - 1](x + top * bytes_of(weight->columns), *weight, s, out + top * out_stride, out_stride);
    }
  }
}

}  // namespace

extern const XnorKernels kXnor = {"cnt", copied_bytes, copy_rows, multiply, binarize, binarize_codes};

}  // namespace bqc::neon
