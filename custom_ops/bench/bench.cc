// GMAC/s of one core in the matrix product of every level, in the shapes of BERT-base; and ns a value of row
// kernels.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"

namespace {

using bqc::Geometry;
using bqc::KernelSet;

template <class Body>
double best_seconds(const Body& body) {
  double best = 1e9;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 1000; ++i) {
    const auto from = std::chrono::steady_clock::now();
    body();
    const auto to = std::chrono::steady_clock::now();
    const double t = std::chrono::duration<double>(to - from).count();
    if (t < best) best = t;
    if (i >= 3 && std::chrono::duration<double>(to - start).count() > 0.2) break;
  }
  return best;
}

std::vector<uint8_t> random_bytes(size_t n) {
  static std::mt19937 random(1);
  std::vector<uint8_t> bytes(n);
  for (auto& b : bytes) b = static_cast<uint8_t>(random());
  return bytes;
}

void product(const KernelSet& set, int bits, int64_t block, int64_t m, int64_t k, int64_t n,
             int64_t panel_rows) {
  const Geometry g = bqc::make_geometry(k, block, 0);
  const int64_t strips = bqc::ceil_div(n, 16);
  const auto codes = random_bytes(static_cast<size_t>(m * k));
  const auto weight = random_bytes(static_cast<size_t>(strips * k * bits * 2));
  const std::vector<int8_t> exponents(static_cast<size_t>(m * g.count), -6);
  const std::vector<int8_t> weight_exponents(static_cast<size_t>(strips * 16 * g.count), -6);
  void* panel =
      bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set.gemm->panel_bytes(&g, panel_rows)));
  float* out = bqc::scratch<float>(bqc::Slot::tile, panel_rows * strips * 16);
  const double t = best_seconds([&] {
    for (int64_t row = 0; row < m; row += panel_rows) {
      const int64_t rows = m - row < panel_rows ? m - row : panel_rows;
      set.gemm->prepare(&g, bits, reinterpret_cast<const int8_t*>(codes.data()) + row * k, k,
                        exponents.data() + row * g.count, g.count, rows, panel);
      set.gemm->multiply(&g, bits, panel, rows, weight.data(), weight_exponents.data(), strips, 0, strips,
                         out, strips * 16);
    }
  });
  std::printf("%-8s %d bits block %-4ld M %-4ld K %-5ld N %-5ld panel %-3ld %8.1f GMAC/s\n", set.name, bits,
              block, m, k, n, panel_rows, static_cast<double>(m * k * n) / t * 1e-9);
}

void rows(const KernelSet& set) {
  constexpr int64_t n = 768;
  const Geometry g = bqc::make_geometry(n, 64, 0);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(n), y(n), gamma(n, 1.0f);
  for (float& v : x) v = normal(random);
  std::vector<int8_t> codes(n), exponents(12);
  std::vector<int32_t> q(n, -1);
  std::vector<uint8_t> p(n);
  const auto show = [&](const char* name, auto body) {
    const double t = best_seconds([&] {
      for (int i = 0; i < 100; ++i) body();
    });
    std::printf("%-8s %-12s %7.3f ns a value\n", set.name, name, t * 1e9 / (100 * n));
  };
  const bqc::RowKernels& r = *set.rows;
  show("quantize", [&] { r.quantize(x.data(), &g, 8, codes.data(), exponents.data()); });
  show("dequantize", [&] { r.dequantize(codes.data(), exponents.data(), &g, y.data()); });
  show("gelu", [&] { r.gelu(x.data(), n, 0, y.data()); });
  show("tanh", [&] { r.tanh(x.data(), n, y.data()); });
  show("add_bias", [&] { r.add_bias(x.data(), gamma.data(), n, y.data()); });
  show("layer_norm",
       [&] { r.layer_norm(x.data(), gamma.data(), gamma.data(), 1e-12f, n, q.data(), y.data()); });
  show("softmax", [&] { r.softmax(x.data(), q.data(), 1, n, p.data()); });
}

}  // namespace

int main(int argc, char** argv) {
  const int64_t panel = argc > 1 ? std::atoi(argv[1]) : 32;
  for (const KernelSet* set : bqc::runnable_kernels()) {
    for (const int bits : {8, 6, 4, 2}) {
      product(*set, bits, 64, 128, 768, 768, panel);
      product(*set, bits, 64, 128, 768, 3072, panel);
      product(*set, bits, 64, 128, 3072, 768, panel);
    }
    product(*set, 8, 768, 128, 768, 3072, panel);
    product(*set, 8, 16, 128, 768, 3072, panel);
    for (const int64_t m : {1, 8, 16}) product(*set, 8, 64, m, 768, 3072, m);
    rows(*set);
  }
  return 0;
}
