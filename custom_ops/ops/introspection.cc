// The C interface for questions about the library; bqc/runtime/native.py asks them.
#include "ops/introspection.h"

#include <cstring>
#include <deque>
#include <mutex>
#include <vector>

#include "bqc_ort_abi.h"
#include "kernels/dispatch.h"
#include "ops/families.h"
#include "ops/level_checks.h"

namespace bqc {
namespace {

struct Created {
  std::mutex lock;
  std::deque<std::string> lines;
};

// A process that makes sessions for ever and never asks must not grow for ever.
constexpr size_t kMostLines = 1 << 16;

Created& created() {
  static auto* all = new Created;
  return *all;
}

std::string json_list(const std::vector<std::string>& names) {
  std::string text = "[";
  for (const std::string& name : names) text += (text.size() > 1 ? ", \"" : "\"") + name + "\"";
  return text + "]";
}

// What a level supports in a family, whether this CPU can run it or not.
std::string support_json(const KernelSet& set, Work work) {
  std::string text = "{\"by\": \"" + instructions(set, work) + "\"";
  if (work == Work::weights) {
    std::string bits;
    for (int b = 1; b <= 8; ++b) {
      if (set.gemm->supports(b)) bits += (bits.empty() ? "" : ", ") + std::to_string(b);
    }
    text += ", \"weight_bits\": [" + bits + "]";
  }
  return text + "}";
}

std::string families_json() {
  std::string text;
  for (const Family& family : families()) {
    std::vector<std::string> names;
    for (const OpSpec& spec : family.operators()) names.emplace_back(spec.name);
    std::string levels;
    for (const KernelSet* set : compiled_kernels()) {
      levels +=
          std::string(levels.empty() ? "\"" : ", \"") + set->name + "\": " + support_json(*set, family.work);
    }
    text += std::string(text.empty() ? "{" : ", {") + "\"name\": \"" + family.name +
            "\", \"operators\": " + json_list(names) + ", \"levels\": {" + levels + "}}";
  }
  return "[" + text + "]";
}

// Copies at most n bytes including the final 0; returns the size that holds all of it.
long copy_out(const std::string& text, char* buffer, long n) {
  const long needed = static_cast<long>(text.size()) + 1;
  if (buffer && n > 0) {
    const long copied = needed < n ? needed - 1 : n - 1;
    std::memcpy(buffer, text.data(), static_cast<size_t>(copied));
    buffer[copied] = 0;
  }
  return needed;
}

}  // namespace

void note_kernel(const std::string& node, const char* op, const char* level, const std::string& by,
                 const std::string& reason) {
  const std::lock_guard<std::mutex> lock(created().lock);
  if (created().lines.size() == kMostLines) created().lines.pop_front();
  created().lines.push_back(node + "\t" + op + "\t" + level + "\t" + by + "\t" + reason);
}

}  // namespace bqc

BQC_EXPORT const char* BqcBuildInfo() {
  std::vector<std::string> levels;
  for (const bqc::KernelSet* set : bqc::compiled_kernels()) levels.emplace_back(set->name);
  static const std::string text =
      "{\"version\": \"" BQC_VERSION "\", \"api_level\": " + std::to_string(bqc::ort::kApiLevel) +
      ", \"levels\": " + bqc::json_list(levels) + "}";
  return text.c_str();
}

BQC_EXPORT const char* BqcIsa() { return bqc::choose_kernels().set->name; }

BQC_EXPORT const char* BqcCpuFeatures() {
  static const std::string text = bqc::json_list(bqc::cpu_features());
  return text.c_str();
}

BQC_EXPORT double BqcPeak(const char* level, const char* arithmetic, double seconds) {
  const bqc::PeakLoops* loops = bqc::peak_loops(level);
  if (!loops) return 0;
  const bqc::PeakLoop& loop = !std::strcmp(arithmetic, "fp32")   ? loops->fp32
                              : !std::strcmp(arithmetic, "bits") ? loops->bits
                                                                 : loops->int8;
  return bqc::peak_gmacs(loop, seconds);
}

BQC_EXPORT const char* BqcKernelFamilies() {
  static const std::string text = bqc::families_json();
  return text.c_str();
}

BQC_EXPORT long BqcKernelsCreated() {
  const std::lock_guard<std::mutex> lock(bqc::created().lock);
  return static_cast<long>(bqc::created().lines.size());
}

BQC_EXPORT void BqcKernelReset() {
  const std::lock_guard<std::mutex> lock(bqc::created().lock);
  bqc::created().lines.clear();
}

BQC_EXPORT long BqcKernelNames(char* buffer, long n) {
  std::string text;
  {
    const std::lock_guard<std::mutex> lock(bqc::created().lock);
    for (const std::string& line : bqc::created().lines) text += line + "\n";
  }
  return bqc::copy_out(text, buffer, n);
}

BQC_EXPORT int BqcSelfTest(char* buffer, long n) {
  std::string report;
  int failures = 0;
  try {
    for (const bqc::KernelSet* set : bqc::runnable_kernels()) {
      for (const bqc::LevelCheck& check : bqc::compare_levels(bqc::portable::kKernels, *set, 1)) {
        report += std::string(check.same ? "ok " : "FAIL ") + set->name + " " + check.what + "\n";
        failures += check.same ? 0 : 1;
      }
    }
  } catch (...) {
    report += "FAIL stopped by an exception\n";
    failures += 1;
  }
  bqc::copy_out(report, buffer, n);
  return failures;
}
