// Signs by signs at the level that runs anywhere: bits that differ are counted eight bytes at a time.
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::portable {

#include "kernels/blocks.inc"
#include "kernels/xnor.inc"

namespace {

constexpr uint64_t kEach = 0x0101010101010101u;

// Of every byte the bits that are set.
inline uint64_t counts_of(uint64_t v) {
  v -= v >> 1 & kEach * 0x55;
  v = (v & kEach * 0x33) + (v >> 2 & kEach * 0x33);
  return (v + (v >> 4)) & kEach * 0x0f;
}

// The bits that differ between a row and 16 outputs.
void count(const uint8_t* x, const uint8_t* strip, int64_t columns, int32_t* __restrict sums) {
  const int64_t bytes = bytes_of(columns);
  for (int n = 0; n < 16; ++n) sums[n] = 0;
  for (int64_t from = 0; from < bytes; from += kBytesTogether) {
    const int64_t to = bytes - from < kBytesTogether ? bytes : from + kBytesTogether;
    uint64_t counts[2] = {0, 0};
    for (int64_t j = from; j < to; ++j) {
      const uint64_t byte = kEach * x[j], kept = kEach * kept_bits(columns, j);
      uint64_t w[2];
      __builtin_memcpy(w, strip + 16 * j, sizeof w);
      for (int h = 0; h < 2; ++h) counts[h] += counts_of((w[h] ^ byte) & kept);
    }
    uint8_t parts[16];
    __builtin_memcpy(parts, counts, sizeof parts);
    for (int n = 0; n < 16; ++n) sums[n] += parts[n];
  }
}

void multiply(const void* panel, int64_t rows, const BitTiles* weight, int64_t first, int64_t last,
              float* out, int64_t out_stride) {
  const int64_t bytes = bytes_of(weight->columns);
  for (int64_t s = first; s < last; ++s) {
    for (int64_t r = 0; r < rows; ++r) {
      int32_t sums[16];
      count(static_cast<const uint8_t*>(panel) + r * bytes, weight->bits + s * strip_bytes(weight->columns),
            weight->columns, sums);
      scale_counts(sums, weight->columns, weight->scales + s * 16, out + r * out_stride + s * 16);
    }
  }
}

}  // namespace

extern const XnorKernels kXnor = {
    "counts of bits in words", copied_bytes, copy_rows, multiply, binarize, binarize_codes};

}  // namespace bqc::portable
