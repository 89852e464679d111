#include "kernels/dispatch.h"

#include <cstdlib>
#include <cstring>

#if defined(BQC_X86)
#include <cpuid.h>
#elif defined(BQC_ARM)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace bqc {
namespace {

struct Feature {
  const char* name;
  bool present;
};

#if defined(BQC_X86)
// Register state that the operating system saves: 0x6 for AVX, 0xe6 for AVX-512.
bool saves(unsigned long long wanted) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return false;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & wanted) == wanted;
}

std::vector<Feature> detect() {
  unsigned a = 0, b = 0, c = 0, d = 0, ecx1 = 0;
  if (__get_cpuid(1, &a, &b, &c, &d)) ecx1 = c;
  unsigned a7 = 0, b7 = 0, c7 = 0, d7 = 0;
  __get_cpuid_count(7, 0, &a7, &b7, &c7, &d7);
  unsigned a71 = 0, b71 = 0, c71 = 0, d71 = 0;
  if (a7 >= 1) __get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
  const bool ymm = saves(0x6), zmm = saves(0xe6);
  return {
      {"avx2", ymm && (b7 >> 5 & 1)},
      {"fma", ymm && (ecx1 >> 12 & 1)},
      {"f16c", ymm && (ecx1 >> 29 & 1)},
      {"avx_vnni", ymm && (a71 >> 4 & 1)},
      {"avx512f", zmm && (b7 >> 16 & 1)},
      {"avx512dq", zmm && (b7 >> 17 & 1)},
      {"avx512bw", zmm && (b7 >> 30 & 1)},
      {"avx512vl", zmm && (b7 >> 31 & 1)},
      {"avx512_vbmi", zmm && (c7 >> 1 & 1)},
      {"avx512_vnni", zmm && (c7 >> 11 & 1)},
      {"avx512_vpopcntdq", zmm && (c7 >> 14 & 1)},
      {"avx512_bf16", zmm && (a71 >> 5 & 1)},
  };
}
#elif defined(BQC_ARM)
std::vector<Feature> detect() {
  const unsigned long found = getauxval(AT_HWCAP);
  return {{"asimd", (found & HWCAP_ASIMD) != 0}, {"asimddp", (found & HWCAP_ASIMDDP) != 0}};
}
#else
std::vector<Feature> detect() { return {}; }
#endif

const std::vector<Feature>& features() {
  static const std::vector<Feature> found = detect();
  return found;
}

struct Level {
  const KernelSet* set;
  const PeakLoops* peak;
  std::vector<const char*> needs;
};

// Slowest first.
const std::vector<Level>& levels() {
  static const std::vector<Level> all = {
      {&portable::kKernels, &portable::kPeak, {}},
#if defined(BQC_X86)
      {&avx2::kKernels, &avx2::kPeak, {"avx2", "fma", "f16c"}},
      {&avx512::kKernels,
       &avx512::kPeak,
       {"avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni"}},
      {&avx512_vbmi::kKernels,
       &avx512_vbmi::kPeak,
       {"avx2", "fma", "f16c", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_vbmi",
        "avx512_vpopcntdq"}},
#elif defined(BQC_ARM)
      {&neon::kKernels, &neon::kPeak, {"asimd"}},
      {&neon_dot::kKernels, &neon_dot::kPeak, {"asimd", "asimddp"}},
#endif
  };
  return all;
}

bool lacks(const char* feature) {
  for (const Feature& f : features()) {
    if (!std::strcmp(f.name, feature)) return !f.present;
  }
  return true;
}

const char* missing_feature(const Level& level) {
  for (const char* need : level.needs) {
    if (lacks(need)) return need;
  }
  return nullptr;
}

}  // namespace

Choice choose_kernels(int64_t weight_bits) {
  const char* cap = std::getenv("BQC_MAX_ISA");
  const auto& all = levels();
  size_t limit = all.size();
  bool known = true;
  if (cap && *cap) {
    known = false;
    for (size_t i = 0; i < all.size(); ++i) {
      if (std::strcmp(all[i].set->name, cap)) continue;
      limit = i + 1;
      known = true;
    }
  }
  std::string reason = limit < all.size() ? "BQC_MAX_ISA=" + std::string(cap) : "the fastest of this library";
  size_t i = limit - 1;
  for (; i > 0; --i) {
    if (const char* missing = missing_feature(all[i])) {
      reason = std::string("the CPU has no ") + missing;
    } else if (!all[i].set->gemm->supports(static_cast<int>(weight_bits))) {
      reason = std::string(all[i].set->name) + " has no " + std::to_string(weight_bits) + "-bit weights";
    } else {
      break;
    }
  }
  if (!known) reason += "; no level is called BQC_MAX_ISA=" + std::string(cap);
  return {all[i].set, reason};
}

const HalfProducts* bf16_products() {
#if defined(BQC_X86)
  if (peak_loops("avx512") && !lacks("avx512_bf16")) return &avx512_bf16::kHalf;
#endif
  return nullptr;
}

HalfChoice choose_half(const KernelSet& set) {
  const HalfProducts* own = &set.half->products;
  const char* wanted = std::getenv("BQC_FP16_ARITHMETIC");
  if (!wanted || std::strcmp(wanted, "bf16")) return {own, ""};
  const std::string asked = "BQC_FP16_ARITHMETIC=bf16";
  const HalfProducts* products = bf16_products();
  if (!products) return {own, asked + ", which this CPU lacks"};
  // A level that is held back holds them back as well.
  if (std::strncmp(set.name, "avx512", 6)) return {own, asked + ", which needs level avx512"};
  return {products, asked};
}

const PeakLoops* peak_loops(const std::string& name) {
  for (const Level& level : levels()) {
    if (name == level.set->name && !missing_feature(level)) return level.peak;
  }
  return nullptr;
}

std::vector<const KernelSet*> runnable_kernels() {
  std::vector<const KernelSet*> sets;
  for (const Level& level : levels()) {
    if (!missing_feature(level)) sets.push_back(level.set);
  }
  return sets;
}

std::vector<const KernelSet*> compiled_kernels() {
  std::vector<const KernelSet*> sets;
  for (const Level& level : levels()) sets.push_back(level.set);
  return sets;
}

std::vector<std::string> cpu_features() {
  std::vector<std::string> names;
  for (const Feature& f : features()) {
    if (f.present) names.emplace_back(f.name);
  }
  return names;
}

}  // namespace bqc
