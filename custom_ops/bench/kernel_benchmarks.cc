// Every kernel of every level that this CPU can run, on one core, in the shapes of BERT-base:
//
//   bqc_bench --benchmark_filter='product/avx2/8/64/128/.*' --benchmark_repetitions=5
//
// Products count GMAC/s and `of_peak`, their share of what a loop of the level's sums of products on
// registers reaches in the same process (of floats for fp16 weights, of signs for signs by signs, of int8
// codes for all others); row functions count the bytes of the values that they read and write.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <ctime>
#include <map>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "kernels/dispatch.h"
#include "ops/common.h"
#include "ops/level_checks.h"

namespace {

using bqc::Geometry;
using bqc::KernelSet;

// Rows that a linear puts into a panel at most, and bytes of one for signs.
constexpr int64_t kPanelRows = 48, kSignPanelBytes = 512 * 1024;

// Memory in whole lines of the cache, as files have weights.
template <class T>
struct Lines {
  using value_type = T;

  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* data, size_t) { ::operator delete(data, kLine); }
  bool operator==(const Lines&) const { return true; }
  bool operator!=(const Lines&) const { return false; }

  static constexpr std::align_val_t kLine{64};
};

template <class T>
std::vector<T, Lines<T>> random_integers(int64_t n, int low, int high) {
  static std::mt19937 random(1);
  std::uniform_int_distribution<int> any(low, high);
  std::vector<T, Lines<T>> out(static_cast<size_t>(n));
  for (T& x : out) x = static_cast<T>(any(random));
  return out;
}

std::vector<float> random_floats(int64_t n) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = normal(random);
  return out;
}

using Loop = bqc::PeakLoop bqc::PeakLoops::*;

// What a loop of a level reaches.
double peak(const KernelSet& set, Loop loop) {
  const bqc::PeakLoop& found = bqc::peak_loops(set.name)->*loop;
  static std::map<const bqc::PeakLoop*, double> known;
  const auto before = known.find(&found);
  return before != known.end() ? before->second : known[&found] = bqc::peak_gmacs(found, 0.5);
}

// The CPU time of this thread since it was made, in seconds: other processes may keep it waiting.
class Stopwatch {
 public:
  double seconds() const { return now() - start_; }

 private:
  static double now() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  }

  double start_ = now();
};

void count_macs(benchmark::State& state, const KernelSet& set, int64_t macs, const Stopwatch& watch,
                Loop loop = &bqc::PeakLoops::int8) {
  const double gmacs = 1e-9 * static_cast<double>(macs * state.iterations()) / watch.seconds();
  state.counters["GMAC/s"] = gmacs;
  state.counters["of_peak"] = gmacs / peak(set, loop);
}

// What BlockLinear does without its epilogue: activations of m rows prepared and multiplied, panel by panel.
void product(benchmark::State& state, const KernelSet& set, int bits, int64_t block, int64_t m, int64_t k,
             int64_t n) {
  const Geometry g = bqc::make_geometry(k, block, 0);
  const int64_t strips = bqc::ceil_div(n, 16), most = m < kPanelRows ? m : kPanelRows;
  const auto codes = random_integers<int8_t>(m * k, -127, 127);
  const auto weight = random_integers<uint8_t>(strips * bqc::tile_count(k, bits) * 64, 0, 255);
  const std::vector<int8_t> exponents(static_cast<size_t>(m * g.count), -6);
  const std::vector<int8_t> weight_exponents(static_cast<size_t>(strips * 16 * g.count), -6);
  void* panel = bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(set.gemm->panel_bytes(&g, most)));
  float* out = bqc::scratch<float>(bqc::Slot::tile, most * strips * 16);
  const Stopwatch watch;
  for (auto _ : state) {
    for (int64_t row = 0; row < m; row += most) {
      const int64_t rows = m - row < most ? m - row : most;
      set.gemm->prepare(&g, bits, codes.data() + row * k, k, exponents.data() + row * g.count, g.count, rows,
                        panel);
      set.gemm->multiply(&g, bits, panel, rows, weight.data(), weight_exponents.data(), strips, 0, strips,
                         out, strips * 16);
    }
    benchmark::ClobberMemory();
  }
  count_macs(state, set, m * k * n, watch);
}

// The same for SignLinear: codes of so many bits times planes of signs.
void signs(benchmark::State& state, const KernelSet& set, int bits, int64_t planes, int64_t block, int64_t m,
           int64_t k, int64_t n) {
  const Geometry g = bqc::make_geometry(k, block, 0);
  const bqc::SignKernels& kernels = *set.signs;
  const int64_t strips = bqc::ceil_div(n, 16), fits = kSignPanelBytes / kernels.panel_bytes(&g, 1) / 4 * 4;
  const int64_t most = std::min(m, std::clamp<int64_t>(fits, 4, kPanelRows));
  const int limit = (1 << (bits - 1)) - 1;
  const auto codes = random_integers<int8_t>(m * k, -limit, limit);
  const auto weight = random_integers<uint8_t>(planes * strips * k * 2, 0, 255);
  const std::vector<int8_t> exponents(static_cast<size_t>(m * g.count), -6);
  const std::vector<float> scales(static_cast<size_t>(planes * strips * 16), 0.25f);
  const bqc::SignPlanes weights = {weight.data(), scales.data(), planes, strips};
  void* panel = bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(kernels.panel_bytes(&g, most)));
  float* out = bqc::scratch<float>(bqc::Slot::tile, most * strips * 16);
  const Stopwatch watch;
  for (auto _ : state) {
    for (int64_t row = 0; row < m; row += most) {
      const int64_t rows = m - row < most ? m - row : most;
      kernels.prepare(&g, codes.data() + row * k, k, exponents.data() + row * g.count, g.count, rows, panel);
      kernels.multiply(&g, panel, rows, &weights, 0, strips, out, strips * 16);
    }
    benchmark::ClobberMemory();
  }
  count_macs(state, set, m * k * n, watch);
}

// The same for HalfLinear, or with indices for IndexLinear.
void half(benchmark::State& state, const KernelSet& set, const bqc::HalfProducts& kernels, bool indices,
          int64_t m, int64_t k, int64_t n) {
  const int64_t strips = bqc::ceil_div(n, 16), most = std::min(m, bqc::kHalfPanelRows);
  const auto x = random_floats(m * k);
  std::vector<float> table = random_floats(256);
  set.half->round(table.data(), 256, table.data());
  const auto codes = random_integers<uint8_t>(strips * k * 16, 0, 255);
  std::vector<uint16_t> halves(codes.size());
  for (size_t i = 0; i < halves.size(); ++i) halves[i] = static_cast<uint16_t>(0x3000 + 4 * codes[i]);
  const bqc::HalfTiles weight = {indices ? nullptr : halves.data(), codes.data(), table.data(), k};
  float* panel = bqc::scratch<float>(bqc::Slot::panel, most * k);
  float* out = bqc::scratch<float>(bqc::Slot::tile, most * strips * 16);
  const Stopwatch watch;
  for (auto _ : state) {
    for (int64_t row = 0; row < m; row += most) {
      const int64_t rows = std::min(m - row, most);
      kernels.prepare(x.data() + row * k, k, rows, panel);
      kernels.multiply(panel, rows, &weight, 0, strips, out, strips * 16);
    }
    benchmark::ClobberMemory();
  }
  count_macs(state, set, m * k * n, watch, &bqc::PeakLoops::fp32);
}

// The same for XnorLinear: signs times signs.
void xnor(benchmark::State& state, const KernelSet& set, int64_t m, int64_t k, int64_t n) {
  const bqc::XnorKernels& kernels = *set.xnor;
  const int64_t strips = bqc::ceil_div(n, 16), most = std::min(m, kPanelRows), stride = bqc::ceil_div(k, 8);
  const auto bits = random_integers<uint8_t>(m * stride, 0, 255);
  const auto tiles = random_integers<uint8_t>(strips * bqc::round_up(k, 64) * 2, 0, 255);
  const std::vector<float> scales(static_cast<size_t>(strips * 16), 0.25f);
  const bqc::BitTiles weight = {tiles.data(), scales.data(), k, strips};
  void* panel = bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(kernels.panel_bytes(k, most)));
  float* out = bqc::scratch<float>(bqc::Slot::tile, most * strips * 16);
  const Stopwatch watch;
  for (auto _ : state) {
    for (int64_t row = 0; row < m; row += most) {
      const int64_t rows = m - row < most ? m - row : most;
      kernels.prepare(k, bits.data() + row * stride, stride, rows, panel);
      kernels.multiply(panel, rows, &weight, 0, strips, out, strips * 16);
    }
    benchmark::ClobberMemory();
  }
  count_macs(state, set, m * k * n, watch, &bqc::PeakLoops::bits);
}

struct Sparsity {
  int kept, of, bits;
};

// The same for SparseLinear, with activations of 8 bits.
void sparse(benchmark::State& state, const KernelSet& set, const Sparsity& sparsity, int64_t block, int64_t m,
            int64_t k, int64_t n) {
  const Geometry g = bqc::make_geometry(k, block, 0);
  const bqc::SparseKernels& kernels = *set.sparse;
  const int64_t strips = bqc::ceil_div(n, 16), most = std::min(m, kPanelRows);
  const auto codes = random_integers<int8_t>(m * k, -127, 127);
  std::mt19937 random(3);
  const auto draw = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const auto tiles = bqc::any_sparse_tiles(draw, strips, k, sparsity.kept, sparsity.of, sparsity.bits);
  const std::vector<int8_t> exponents(static_cast<size_t>(m * g.count), -6);
  const std::vector<float> scales(static_cast<size_t>(strips * 16), 0.25f);
  const bqc::SparseTiles weight = {tiles.data(),  scales.data(), strips,
                                   sparsity.kept, sparsity.of,   sparsity.bits};
  void* panel = bqc::scratch_bytes(bqc::Slot::panel, static_cast<size_t>(kernels.panel_bytes(&g, most)));
  float* out = bqc::scratch<float>(bqc::Slot::tile, most * strips * 16);
  const Stopwatch watch;
  for (auto _ : state) {
    for (int64_t row = 0; row < m; row += most) {
      const int64_t rows = m - row < most ? m - row : most;
      kernels.prepare(&g, codes.data() + row * k, k, exponents.data() + row * g.count, g.count, rows, panel);
      kernels.multiply(&g, panel, rows, &weight, 0, strips, out, strips * 16);
    }
    benchmark::ClobberMemory();
  }
  count_macs(state, set, m * k * n, watch);
}

// Softmax codes [rows][keys] times the packed values of one head.
void mix(benchmark::State& state, const KernelSet& set, int64_t keys, int64_t width) {
  constexpr int64_t kRows = 24;
  const int64_t strips = bqc::ceil_div(width, 16), stride = bqc::round_up(keys, 64);
  const auto codes = random_integers<uint8_t>(kRows * stride, 0, 255);
  const auto tiles = random_integers<int8_t>(strips * 16 * bqc::round_up(keys, 4), -127, 127);
  std::vector<int32_t> out(static_cast<size_t>(kRows * strips * 16));
  const Stopwatch watch;
  for (auto _ : state) {
    set.gemm->mix(codes.data(), stride, kRows, tiles.data(), keys, strips, out.data(), strips * 16);
    benchmark::ClobberMemory();
  }
  count_macs(state, set, kRows * keys * width, watch);
}

// One head of FloatAttention with as many queries as keys.
void float_attention(benchmark::State& state, const KernelSet& set, int64_t keys, int64_t width) {
  constexpr int64_t kHidden = 768;
  const auto q = random_floats(keys * kHidden), key = random_floats(keys * width),
             values = random_floats(keys * width);
  const bqc::FloatHead head = {key.data(), values.data(), width, keys, 0.125f, 0, 0};
  float* memory = bqc::scratch<float>(bqc::Slot::tile, set.float_attention->memory(&head));
  std::vector<float> y(q.size());
  const Stopwatch watch;
  for (auto _ : state) {
    set.float_attention->attend(&head, q.data(), kHidden, keys, memory, y.data());
    benchmark::ClobberMemory();
  }
  count_macs(state, set, 2 * keys * keys * width, watch, &bqc::PeakLoops::fp32);
}

// Keys and values of one head, read with the stride of the hidden layer.
void pack(benchmark::State& state, const KernelSet& set, bool values, int64_t keys, int64_t width) {
  constexpr int64_t kHidden = 768;
  const Geometry g = bqc::make_geometry(width, 64, 0);
  const auto codes = random_integers<int8_t>(keys * kHidden, -127, 127);
  std::vector<uint8_t> tiles(static_cast<size_t>(bqc::round_up(keys, 16) * bqc::round_up(width, 16)));
  for (auto _ : state) {
    if (values) {
      set.gemm->pack_values(codes.data(), kHidden, keys, width, reinterpret_cast<int8_t*>(tiles.data()));
    } else {
      set.gemm->pack_keys(codes.data(), kHidden, keys, &g, tiles.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 2 * keys * width);
}

// body(kernels, data) works off a row of 768 values, of which it reads and writes `bytes` each.
template <class Body>
void row(benchmark::State& state, const KernelSet& set, int64_t bytes, const Body& body) {
  struct Row {
    std::vector<float> x = random_floats(768), gamma = std::vector<float>(768, 1.0f), y = gamma;
    std::vector<int8_t> codes = std::vector<int8_t>(768), exponents = std::vector<int8_t>(12);
    std::vector<int32_t> integers = std::vector<int32_t>(768, -1);
    std::vector<uint8_t> unsigned_codes = std::vector<uint8_t>(768);
    Geometry g = bqc::make_geometry(768, 64, 0);
  } data;
  for (auto _ : state) {
    body(*set.rows, data);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * 768 * bytes);
}

std::string name(std::initializer_list<std::string> parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : "/") + part;
  return text;
}

struct Shape {
  int64_t m, k, n;
};
const Shape kShapes[] = {{1, 768, 3072},  {1, 3072, 768},   {16, 768, 3072}, {16, 3072, 768},
                         {128, 768, 768}, {128, 768, 3072}, {128, 3072, 768}};

void register_products(const KernelSet& set) {
  for (int bits = 1; bits <= 8; ++bits) {
    if (!set.gemm->supports(bits)) continue;
    for (const int64_t block : {16, 64, 4096}) {
      for (const Shape& s : kShapes) {
        benchmark::RegisterBenchmark(name({"product", set.name, std::to_string(bits), std::to_string(block),
                                           std::to_string(s.m), std::to_string(s.k), std::to_string(s.n)})
                                         .c_str(),
                                     [&set, bits, block, s](benchmark::State& state) {
                                       product(state, set, bits, block, s.m, s.k, s.n);
                                     });
      }
    }
  }
}

// Codes of 8, 6 and 4 bits by one and two planes: signs/LEVEL/BITS/PLANES/BLOCK/M/K/N.
void register_signs(const KernelSet& set) {
  for (const int bits : {8, 6, 4}) {
    for (const int64_t planes : {1, 2}) {
      for (const int64_t block : {64, 4096}) {
        for (const Shape& s : kShapes) {
          benchmark::RegisterBenchmark(
              name({"signs", set.name, std::to_string(bits), std::to_string(planes), std::to_string(block),
                    std::to_string(s.m), std::to_string(s.k), std::to_string(s.n)})
                  .c_str(),
              [&set, bits, planes, block, s](benchmark::State& state) {
                signs(state, set, bits, planes, block, s.m, s.k, s.n);
              });
        }
      }
    }
  }
}

// fp16 weights, and indices of fp16 numbers: half/LEVEL/M/K/N and index/LEVEL/M/K/N.
void register_half(const KernelSet& set, const bqc::HalfProducts& products, const char* level) {
  for (const bool indices : {false, true}) {
    for (const Shape& s : kShapes) {
      benchmark::RegisterBenchmark(name({indices ? "index" : "half", level, std::to_string(s.m),
                                         std::to_string(s.k), std::to_string(s.n)})
                                       .c_str(),
                                   [&set, &products, indices, s](benchmark::State& state) {
                                     half(state, set, products, indices, s.m, s.k, s.n);
                                   });
    }
  }
}

// sparse/LEVEL/KEPT/OF/BITS/BLOCK/M/K/N; multiply-accumulates are those of a dense weight.
void register_sparse(const KernelSet& set) {
  for (const Sparsity sparsity :
       {Sparsity{2, 4, 8}, {1, 4, 8}, {2, 8, 8}, {4, 8, 8}, {2, 4, 4}, {1, 4, 4}, {2, 8, 4}, {4, 8, 4}}) {
    for (const int64_t block : {64, 4096}) {
      for (const Shape& s : kShapes) {
        benchmark::RegisterBenchmark(
            name({"sparse", set.name, std::to_string(sparsity.kept), std::to_string(sparsity.of),
                  std::to_string(sparsity.bits), std::to_string(block), std::to_string(s.m),
                  std::to_string(s.k), std::to_string(s.n)})
                .c_str(),
            [&set, sparsity, block, s](benchmark::State& state) {
              sparse(state, set, sparsity, block, s.m, s.k, s.n);
            });
      }
    }
  }
}

// xnor/LEVEL/M/K/N.
void register_xnor(const KernelSet& set) {
  for (const Shape& s : kShapes) {
    benchmark::RegisterBenchmark(
        name({"xnor", set.name, std::to_string(s.m), std::to_string(s.k), std::to_string(s.n)}).c_str(),
        [&set, s](benchmark::State& state) { xnor(state, set, s.m, s.k, s.n); });
  }
}

void register_attention(const KernelSet& set) {
  for (const int64_t keys : {16, 128, 512}) {
    for (const int64_t width : {32, 64}) {
      const std::string size = std::to_string(keys) + "/" + std::to_string(width);
      benchmark::RegisterBenchmark(
          name({"mix", set.name, size}).c_str(),
          [&set, keys, width](benchmark::State& state) { mix(state, set, keys, width); });
      benchmark::RegisterBenchmark(
          name({"float_attention", set.name, size}).c_str(),
          [&set, keys, width](benchmark::State& state) { float_attention(state, set, keys, width); });
      benchmark::RegisterBenchmark(
          name({"pack_keys", set.name, size}).c_str(),
          [&set, keys, width](benchmark::State& state) { pack(state, set, false, keys, width); });
      benchmark::RegisterBenchmark(
          name({"pack_values", set.name, size}).c_str(),
          [&set, keys, width](benchmark::State& state) { pack(state, set, true, keys, width); });
    }
  }
}

void register_rows(const KernelSet& set) {
  const auto add = [&set](const char* what, int64_t bytes, auto body) {
    benchmark::RegisterBenchmark(
        name({what, set.name}).c_str(),
        [&set, bytes, body](benchmark::State& state) { row(state, set, bytes, body); });
  };
  using Rows = const bqc::RowKernels&;
  add("quantize", 5,
      [](Rows r, auto& d) { r.quantize(d.x.data(), &d.g, 8, d.codes.data(), d.exponents.data()); });
  add("dequantize", 5,
      [](Rows r, auto& d) { r.dequantize(d.codes.data(), d.exponents.data(), &d.g, d.y.data()); });
  add("gelu", 8, [](Rows r, auto& d) { r.gelu(d.x.data(), 768, 0, d.y.data()); });
  add("tanh", 8, [](Rows r, auto& d) { r.tanh(d.x.data(), 768, d.y.data()); });
  add("add_bias", 12, [](Rows r, auto& d) { r.add_bias(d.x.data(), d.gamma.data(), 768, d.y.data()); });
  add("layer_norm", 16, [](Rows r, auto& d) {
    r.layer_norm(d.x.data(), d.gamma.data(), d.gamma.data(), 1e-12f, 768, d.integers.data(), d.y.data());
  });
  add("softmax", 9,
      [](Rows r, auto& d) { r.softmax(d.x.data(), d.integers.data(), 1, 768, d.unsigned_codes.data()); });
}

#if defined(BQC_X86)
// The two instructions of products of signs with VBMI on registers: each result of vpermb is an operand of
// vpdpbusd. Both go to two of the CPU's vector units, of which one is the same on Zen 5, so that a pair takes
// longer than either alone. In assembly, as this file is compiled without them.
__attribute__((target("avx512f"))) void lookups(benchmark::State& state, const KernelSet& set) {
  constexpr int64_t kPairs = 16, kSteps = 1024;
  const Stopwatch watch;
  for (auto _ : state) {
    int64_t steps = kSteps;
#define BQC_PAIR(entries, sum) \
  "vpermb %%zmm31, %%zmm30, %%zmm" #entries "\n\tvpdpbusd %%zmm29, %%zmm" #entries ", %%zmm" #sum "\n\t"
    __asm__ volatile("1:\n\t" BQC_PAIR(16, 0) BQC_PAIR(17, 1) BQC_PAIR(18, 2) BQC_PAIR(19, 3) BQC_PAIR(20, 4)
                         BQC_PAIR(21, 5) BQC_PAIR(22, 6) BQC_PAIR(23, 7) BQC_PAIR(16, 8) BQC_PAIR(17, 9)
                             BQC_PAIR(18, 10) BQC_PAIR(19, 11) BQC_PAIR(20, 12) BQC_PAIR(21, 13)
                                 BQC_PAIR(22, 14) BQC_PAIR(23, 15) "dec %0\n\tjnz 1b"
                     : "+r"(steps)
                     :
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",
                       "xmm19", "xmm20", "xmm21", "xmm22", "xmm23");
#undef BQC_PAIR
  }
  count_macs(state, set, kPairs * kSteps * 256, watch);
}
#endif

// Benchmarks are registered before benchmark_main's main runs.
const bool kRegistered = [] {
  for (const KernelSet* set : bqc::runnable_kernels()) {
    register_products(*set);
    register_signs(*set);
    register_half(*set, set->half->products, set->name);
    register_xnor(*set);
    register_sparse(*set);
    register_attention(*set);
    register_rows(*set);
  }
#if defined(BQC_X86)
  if (bqc::peak_loops("avx512_vbmi")) {
    benchmark::RegisterBenchmark("lookups/avx512_vbmi",
                                 [](benchmark::State& state) { lookups(state, bqc::avx512_vbmi::kKernels); });
  }
#endif
  if (const bqc::HalfProducts* products = bqc::bf16_products()) {
    register_half(*bqc::runnable_kernels().back(), *products, "avx512_bf16");
  }
  return true;
}();

}  // namespace
