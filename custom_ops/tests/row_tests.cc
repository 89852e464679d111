// Functions of rows: every ISA level against the portable one where numbers are very small, large or none.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/dispatch.h"
#include "random.h"

namespace {

// Rows of a norm whose largest number is far down, at the ends of what is a normal number, or infinite, with
// smaller ones down to those that count as 0; and rows so long that sums of 32 bits do not hold them.
TEST(Rows, AgreeAtTheEndsOfWhatNumbersAre) {
  Random random(1);
  const auto drawn = [&](int exponent) {
    const float sign = between(random, 0, 1) ? 1.0f : -1.0f;
    return std::ldexp(sign * static_cast<float>(between(random, 1 << 20, 1 << 21)), exponent - 20);
  };
  for (const int64_t n : {1, 15, 16, 17, 64, 100, 768, 16384, 16390, 66000}) {
    for (const int top : {-149, -130, -127, -126, -110, -101, -100, -99, -98, -20, 0, 20, 100, 127}) {
      std::vector<float> x, gamma, beta;
      std::vector<int32_t> keep;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t kind = n > 16000 ? 9 : between(random, 0, 9);
        x.push_back(kind == 0   ? drawn(-140)
                    : kind == 1 ? drawn(-127)
                    : kind == 2 ? (i % 2 ? 0x1p-126f : 0.0f)
                    : kind == 3 ? drawn(top - static_cast<int>(between(random, 1, 24)))
                                : drawn(top));
        if (n > 16000) x.back() = std::fabs(x.back());
        gamma.push_back(drawn(0));
        beta.push_back(drawn(-1));
        keep.push_back(between(random, 0, 3) ? -1 : 0);
      }
      keep[static_cast<size_t>(between(random, 0, n - 1))] = -1;
      for (const int more : {0, 1, 2}) {
        using Limits = std::numeric_limits<float>;
        if (more == 1 && n > 20)
          gamma[5] = Limits::infinity(), beta[9] = Limits::quiet_NaN(), gamma[13] = Limits::max();
        if (more == 2 && n > 20)
          x[3] = Limits::infinity(), x[7] = -Limits::infinity(), x[11] = Limits::quiet_NaN();
        const float epsilon = top < -40 ? 0.0f : 1e-12f;  // of which nothing else would be seen
        const auto run = [&](const bqc::RowKernels& rows) {
          std::vector<float> y(x.size()), scores = x;
          std::vector<int32_t> q(x.size()), largest(x.size(), 5);
          std::vector<uint8_t> codes(x.size());
          rows.layer_norm(x.data(), gamma.data(), beta.data(), epsilon, n, q.data(), y.data());
          rows.softmax(scores.data(), keep.data(), 1, n, codes.data());
          rows.magnitudes(x.data(), n, largest.data());
          std::vector<int32_t> all(codes.begin(), codes.end());
          for (const float v : y) {
            all.push_back(0);
            std::memcpy(&all.back(), &v, sizeof v);
          }
          all.insert(all.end(), largest.begin(), largest.end());
          return all;
        };
        const std::vector<int32_t> expected = run(*bqc::portable::kKernels.rows);
        for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
          EXPECT_EQ(run(*set->rows), expected)
              << set->name << ", " << n << " numbers up to 2**" << top << ", " << more;
        }
      }
    }
  }
}

}  // namespace
