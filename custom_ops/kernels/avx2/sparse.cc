// N:M-sparse weights on AVX2. vpshufb picks for every slot the activation that its index names, and
// vpmaddubsw multiplies it by the code: magnitudes by signed numbers, which cannot saturate as 2 * 127 * 128
// fits 16 bits. The sums of outputs come out in order, four slots in 32 bits.
#include <immintrin.h>
#include <stdint.h>

#include "kernels/kernels.h"

namespace bqc::avx2 {

#include "kernels/blocks.inc"
#include "kernels/plain_panel.inc"
#include "kernels/sparse.inc"

namespace {

constexpr int64_t kUnpackFor = 8, kMostRows = 64;  // rows
constexpr int64_t kWindow = 64;                    // steps that are unpacked together
constexpr int kPieces = 32;                        // of them, at most
constexpr int kTogether = 16;                      // steps whose products are added in 16 bits

template <int N>
struct Count {
  static constexpr int value = N;
};

// What `multiply` must know of a panel's codes, behind its scales.
struct Facts {
  int32_t largest;  // magnitude
};

inline int64_t facts_at(const Geometry& g, int64_t rows) { return padded(panel_bytes(&g, rows), 64); }

int64_t panel_with_facts(const Geometry* g, int64_t rows) { return facts_at(*g, rows) + 64; }

void prepare_with_facts(const Geometry* g, const int8_t* codes, int64_t stride, const int8_t* exponents,
                        int64_t exponent_stride, int64_t rows, void* panel) {
  prepare(g, codes, stride, exponents, exponent_stride, rows, panel);
  const int8_t* data = static_cast<const int8_t*>(panel);
  const int64_t count = rows * padded_inputs(*g);  // a multiple of 16
  __m128i largest = _mm_setzero_si128();
  for (int64_t i = 0; i < count; i += 16) {
    const __m128i x = _mm_load_si128(reinterpret_cast<const __m128i*>(data + i));
    largest = _mm_max_epu8(largest, _mm_abs_epi8(x));
  }
  alignas(16) uint8_t each[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(each), largest);
  Facts facts = {0};
  for (const uint8_t one : each) facts.largest = one > facts.largest ? one : facts.largest;
  __builtin_memcpy(static_cast<char*>(panel) + facts_at(*g, rows), &facts, sizeof facts);
}

// The slots of a step: those of outputs 0 to 7 and of 8 to 15, four bytes each.
struct Slots {
  __m256i index[2], code[2], magnitude[2];
};

template <int Kept, int Of, int Bits>
struct Step {
  static constexpr int kInputs = 4 * Of / Kept, kCodeBytes = 8 * Bits, kBits = Bits;

  static Slots load(const SparseStrip& strip, int64_t step) {
    Slots slots;
    codes(strip.codes + step * kCodeBytes, slots);
    const __m256i low =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(strip.low + step * 16)));
    const __m256i three = _mm256_set1_epi8(3);
    slots.index[0] = _mm256_and_si256(_mm256_srlv_epi64(low, _mm256_setr_epi64x(0, 0, 2, 2)), three);
    slots.index[1] = _mm256_and_si256(_mm256_srlv_epi64(low, _mm256_setr_epi64x(4, 4, 6, 6)), three);
    if constexpr (Of == 8) {
      int64_t bits;
      __builtin_memcpy(&bits, strip.high + step * 8, 8);
      const __m256i high = _mm256_set1_epi64x(bits), four = _mm256_set1_epi8(4);
      const __m256i first = _mm256_srlv_epi64(_mm256_slli_epi64(high, 2), _mm256_setr_epi64x(0, 1, 2, 3));
      const __m256i second = _mm256_srlv_epi64(high, _mm256_setr_epi64x(2, 3, 4, 5));
      slots.index[0] = _mm256_or_si256(slots.index[0], _mm256_and_si256(first, four));
      slots.index[1] = _mm256_or_si256(slots.index[1], _mm256_and_si256(second, four));
    }
    if constexpr (Kept < 4) {
      // The inputs of slot s begin at s / Kept * Of.
      constexpr int kBase = Kept == 2 ? Of << 16 | Of << 24 : Of << 8 | Of << 17 | 3 * Of << 24;
      const __m256i base = _mm256_set1_epi32(kBase);
      slots.index[0] = _mm256_or_si256(slots.index[0], base);
      slots.index[1] = _mm256_or_si256(slots.index[1], base);
    }
    slots.magnitude[0] = _mm256_abs_epi8(slots.code[0]);
    slots.magnitude[1] = _mm256_abs_epi8(slots.code[1]);
    return slots;
  }

  // The inputs of a step, in both halves.
  static __m256i inputs(const int8_t* x) {
    if constexpr (kInputs == 16) {
      return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
    } else {
      int64_t eight;
      __builtin_memcpy(&eight, x, 8);
      return _mm256_set1_epi64x(eight);
    }
  }

 private:
  static void codes(const uint8_t* from, Slots& slots) {
    const __m256i* stored = reinterpret_cast<const __m256i*>(from);
    if constexpr (Bits == 8) {
      const __m256i flip = _mm256_set1_epi8(-128);
      slots.code[0] = _mm256_xor_si256(_mm256_loadu_si256(stored), flip);
      slots.code[1] = _mm256_xor_si256(_mm256_loadu_si256(stored + 1), flip);
    } else {
      const __m256i two = _mm256_loadu_si256(stored), nibble = _mm256_set1_epi8(15),
                    eight = _mm256_set1_epi8(8);
      slots.code[0] = _mm256_sub_epi8(_mm256_and_si256(two, nibble), eight);
      slots.code[1] = _mm256_sub_epi8(_mm256_and_si256(_mm256_srli_epi16(two, 4), nibble), eight);
    }
  }
};

// Some rows of a panel, and where their products go.
struct Rows {
  const int8_t* codes;
  const float* scales;  // [rows][count]
  int64_t inputs, count;
  float* out;
  int64_t out_stride;
};

inline __m256i widened(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }

// Products of slots, pairs of them added. A code of -128 has a magnitude, but no opposite: `Extreme` turns
// the signs of weights instead.
template <bool Extreme>
inline __m256i pairs(__m256i x, __m256i index, __m256i code, __m256i magnitude) {
  const __m256i picked = _mm256_shuffle_epi8(x, index);
  if constexpr (Extreme) return _mm256_maddubs_epi16(_mm256_abs_epi8(picked), _mm256_sign_epi8(code, picked));
  return _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(picked, code));
}

// Steps of a strip as they lie in the file.
template <class S>
struct Packed {
  SparseStrip strip;
  Slots operator[](int64_t step) const { return S::load(strip, step); }
};

// Steps of a window, from the one where it begins.
struct Unpacked {
  const Slots* slots;
  int64_t first;
  const Slots& operator[](int64_t step) const { return slots[step - first]; }
};

// Adds the products of steps [begin, end) to the sums of N rows; `x` has the inputs of step 0 of the first
// row.
template <class S, bool Extreme, int N, class Steps>
inline void add_steps(const Steps& steps, int64_t begin, int64_t end, const int8_t* x, int64_t stride,
                      __m256i (&sums)[N][2]) {
  for (int64_t step = begin; step < end; ++step) {
    const Slots& slots = steps[step];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m256i index = slots.index[h], code = slots.code[h], magnitude = slots.magnitude[h];
#pragma GCC unroll 4
      for (int r = 0; r < N; ++r) {
        const __m256i inputs = S::inputs(x + r * stride + step * S::kInputs);
        sums[r][h] = _mm256_add_epi32(sums[r][h], widened(pairs<Extreme>(inputs, index, code, magnitude)));
      }
    }
  }
}

// The same where so many products fit 16 bits together.
template <class S, bool Extreme, int N, class Steps>
inline void add_steps_together(const Steps& steps, int64_t begin, int64_t end, const int8_t* x,
                               int64_t stride, __m256i (&sums)[N][2]) {
  while (begin < end) {
    const int64_t stop = end - begin < kTogether ? end : begin + kTogether;
    __m256i small[N][2];
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) small[i / 2][i % 2] = _mm256_setzero_si256();
    for (; begin < stop; ++begin) {
      const Slots& slots = steps[begin];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i index = slots.index[h], code = slots.code[h], magnitude = slots.magnitude[h];
#pragma GCC unroll 4
        for (int r = 0; r < N; ++r) {
          const __m256i inputs = S::inputs(x + r * stride + begin * S::kInputs);
          small[r][h] = _mm256_add_epi16(small[r][h], pairs<Extreme>(inputs, index, code, magnitude));
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 2 * N; ++i) {
      sums[i / 2][i % 2] = _mm256_add_epi32(sums[i / 2][i % 2], widened(small[i / 2][i % 2]));
    }
  }
}

inline void flush(float* y, bool first, __m256i dot, __m256 weight, __m256 scale) {
  const __m256 part = _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), weight), scale);
  const __m256 before = first ? _mm256_setzero_ps() : _mm256_loadu_ps(y);
  _mm256_storeu_ps(y, _mm256_add_ps(before, part));
}

template <class S, bool Together, bool Extreme, int N, class Steps>
inline void sum_steps(const Steps& steps, int64_t begin, int64_t end, const int8_t* x, int64_t stride,
                      __m256i (&sums)[N][2]) {
  if constexpr (Together) {
    add_steps_together<S, Extreme, N>(steps, begin, end, x, stride, sums);
  } else {
    add_steps<S, Extreme, N>(steps, begin, end, x, stride, sums);
  }
}

// Adds the sums of a block to the outputs of N rows from `top`.
template <int N>
inline void finish_block(const Rows& rows, int64_t top, int64_t block, const __m256i (&sums)[N][2],
                         const float* weight_scales) {
#pragma GCC unroll 4
  for (int r = 0; r < N; ++r) {
    const __m256 scale = _mm256_set1_ps(rows.scales[(top + r) * rows.count + block]);
    float* y = rows.out + (top + r) * rows.out_stride;
    flush(y, block == 0, sums[r][0], _mm256_loadu_ps(weight_scales), scale);
    flush(y + 8, block == 0, sums[r][1], _mm256_loadu_ps(weight_scales + 8), scale);
  }
}

// N rows from `top` times a strip as it lies in the file. Not inlined, so that the accumulators have all
// registers.
template <class S, bool Together, bool Extreme, int N>
__attribute__((noinline)) void multiply_packed(const Geometry& g, const Rows& rows, int64_t top,
                                               const SparseStrip& strip, const float* weight_scales) {
  const int8_t* x = rows.codes + top * rows.inputs;
  const Packed<S> steps = {strip};
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    __m256i sums[N][2];
#pragma GCC unroll 8
    for (int j = 0; j < 2 * N; ++j) sums[j / 2][j % 2] = _mm256_setzero_si256();
    sum_steps<S, Together, Extreme, N>(steps, at / S::kInputs, (at + wide) / S::kInputs, x, rows.inputs,
                                       sums);
    finish_block<N>(rows, top, i, sums, weight_scales);
  });
}

// Steps [begin, end) of a block: its first ones, its last, or some between.
struct Piece {
  int64_t block, begin, end;
  bool first, last;
};

// Pieces that follow each other.
struct Pieces {
  Piece all[kPieces];
  int count;
};

// N rows from `top` times pieces of a strip; `carried` [N][16] holds the sums of a block that is in several.
// Not inlined, so that the accumulators have all registers.
template <class S, bool Together, bool Extreme, int N>
__attribute__((noinline)) void multiply_rows(const Rows& rows, int64_t top, const Unpacked& steps,
                                             const Pieces& pieces, const float* weight_scales,
                                             int32_t* carried) {
  const int8_t* x = rows.codes + top * rows.inputs;
  __m256i* carry = reinterpret_cast<__m256i*>(carried);
  for (int p = 0; p < pieces.count; ++p) {
    const Piece piece = pieces.all[p];
    __m256i sums[N][2];
#pragma GCC unroll 8
    for (int j = 0; j < 2 * N; ++j) sums[j / 2][j % 2] = piece.first ? _mm256_setzero_si256() : carry[j];
    sum_steps<S, Together, Extreme, N>(steps, piece.begin, piece.end, x, rows.inputs, sums);
    if (!piece.last) {
#pragma GCC unroll 8
      for (int j = 0; j < 2 * N; ++j) carry[j] = sums[j / 2][j % 2];
      continue;
    }
    finish_block<N>(rows, top, piece.block, sums, weight_scales);
  }
}

// Calls body(a constant, first row of so many) for rows [first, last): four, then two, then one.
template <class Body>
inline void each_rows(int64_t first, int64_t last, const Body& body) {
  for (; first + 4 <= last; first += 4) body(Count<4>(), first);
  if (first + 2 <= last) body(Count<2>(), first), first += 2;
  if (first < last) body(Count<1>(), first);
}

// Calls body(pieces) for all blocks, up to kWindow steps at a time.
template <class S, class Body>
inline void each_window(const Geometry& g, const Body& body) {
  Pieces window;
  window.count = 0;
  each_padded_block(g, [&](int64_t i, int64_t, int64_t, int64_t at, int64_t wide) {
    const int64_t begin = at / S::kInputs, end = (at + wide) / S::kInputs;
    for (int64_t from = begin; from < end; from += kWindow) {
      const int64_t to = end - from < kWindow ? end : from + kWindow;
      if (window.count == kPieces || (window.count && to - window.all[0].begin > kWindow)) {
        body(window);
        window.count = 0;
      }
      window.all[window.count++] = {i, from, to, from == begin, to == end};
    }
  });
  body(window);
}

// Few rows take steps as they are. For many those of a window are unpacked first, and stay in the first cache
// for all.
template <class S, bool Together, bool Extreme>
void multiply_strip(const Geometry& g, const Rows& rows, int64_t first, int64_t last,
                    const SparseStrip& strip, const float* weight_scales) {
  if (last - first < kUnpackFor) {
    each_rows(first, last, [&](auto n, int64_t top) {
      multiply_packed<S, Together, Extreme, n.value>(g, rows, top, strip, weight_scales);
    });
    return;
  }
  const Packed<S> packed = {strip};
  alignas(32) Slots slots[kWindow];
  alignas(32) int32_t carried[kMostRows * 16];
  each_window<S>(g, [&](const Pieces& pieces) {
    const int64_t begin = pieces.all[0].begin, end = pieces.all[pieces.count - 1].end;
    for (int64_t step = begin; step < end; ++step) slots[step - begin] = packed[step];
    const Unpacked steps = {slots, begin};
    each_rows(first, last, [&](auto n, int64_t top) {
      multiply_rows<S, Together, Extreme, n.value>(rows, top, steps, pieces, weight_scales,
                                                   carried + (top - first) * 16);
    });
  });
}

using MultiplyStrip = void (*)(const Geometry&, const Rows&, int64_t, int64_t, const SparseStrip&,
                               const float*);

// How a weight is multiplied by codes of this magnitude: 16 steps fit 16 bits where 2 * 16 of the largest
// products do.
template <int Kept, int Of, int Bits>
MultiplyStrip strips_with(int32_t largest) {
  using S = Step<Kept, Of, Bits>;
  constexpr int32_t kMost = (1 << (Bits - 1)) - 1;
  const bool together = 2 * kTogether * kMost * largest <= INT16_MAX;
  if (largest > 127) return Bits == 4 ? multiply_strip<S, true, true> : multiply_strip<S, false, true>;
  return together ? multiply_strip<S, true, false> : multiply_strip<S, false, false>;
}

template <int Bits>
MultiplyStrip strips_of(const SparseTiles& w, int32_t largest) {
  if (w.of == 4) return w.kept == 2 ? strips_with<2, 4, Bits>(largest) : strips_with<1, 4, Bits>(largest);
  return w.kept == 2 ? strips_with<2, 8, Bits>(largest) : strips_with<4, 8, Bits>(largest);
}

void multiply(const Geometry* g, const void* panel, int64_t rows, const SparseTiles* weight, int64_t first,
              int64_t last, float* out, int64_t out_stride) {
  const int8_t* data = static_cast<const int8_t*>(panel);
  Facts facts;
  __builtin_memcpy(&facts, data + facts_at(*g, rows), sizeof facts);
  const MultiplyStrip run =
      weight->bits == 8 ? strips_of<8>(*weight, facts.largest) : strips_of<4>(*weight, facts.largest);
  const float* scales = reinterpret_cast<const float*>(data + codes_bytes(*g, rows));
  const int64_t inputs = padded_inputs(*g);
  for (int64_t s = first; s < last; ++s) {
    const Rows all = {data, scales, inputs, g->count, out + s * 16, out_stride};
    for (int64_t top = 0; top < rows; top += kMostRows) {
      const int64_t bottom = rows - top < kMostRows ? rows : top + kMostRows;
      run(*g, all, top, bottom, strip_of(*weight, inputs, s), weight->scales + s * 16);
    }
  }
}

}  // namespace

extern const SparseKernels kSparse = {"vpshufb by index and vpmaddubsw", panel_with_facts, prepare_with_facts,
                                      multiply};

}  // namespace bqc::avx2
