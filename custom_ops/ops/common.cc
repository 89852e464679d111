#include "ops/common.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>

#include "kernels/constants.h"

namespace bqc {

Geometry make_geometry(int64_t length, int64_t block, int64_t group) {
  BQC_REQUIRE(length >= 1 && block >= 1 && group >= 0, "blocks of ", block, " in groups of ", group,
              " in a row of ", length, ": block and row must be at least 1");
  BQC_REQUIRE(length <= kMaxLength, "a row of ", length, " is longer than ", kMaxLength);
  const int64_t span = group ? group : length;
  BQC_REQUIRE(length % span == 0, "a row of ", length, " is not a whole number of groups of ", span);
  const int64_t groups = length / span, per_group = ceil_div(span, block < span ? block : span);
  return {length, block < span ? block : span, span, groups, per_group, groups * per_group};
}

int64_t block_count(int64_t length, int64_t block, int64_t group) {
  if (length < 1 || length > kMaxLength || block < 1 || group < 0 || (group && length % group)) return -1;
  return make_geometry(length, block, group).count;
}

int checked_bits(int64_t bits, const std::string& name) {
  BQC_REQUIRE(bits == 8 || bits == 6 || bits == 4, "attribute ", name, " is ", bits,
              "; it is one of 8, 6, 4");
  return static_cast<int>(bits);
}

int checked_weight_bits(int64_t bits, const std::string& name) {
  BQC_REQUIRE(bits == 8 || bits == 6 || bits == 4 || bits == 3 || bits == 2, "attribute ", name, " is ", bits,
              "; it is one of 8, 6, 4, 3, 2");
  return static_cast<int>(bits);
}

Format Format::from(const Node& node, const std::string& prefix, bool grouped) {
  Format f;
  f.bits = checked_bits(node.integer((prefix + "bits").c_str(), 8), prefix + "bits");
  f.block = node.integer((prefix + "block").c_str(), 64);
  f.group = grouped ? node.integer((prefix + "group").c_str(), 0) : 0;
  BQC_REQUIRE(f.block >= 1 && f.group >= 0, "attributes ", prefix, "block ", f.block, " and ", prefix,
              "group ", f.group, ": a block is at least 1, a group at least 0");
  return f;
}

void check_pair(const Tensor& codes, const Tensor& exponents, const Geometry& g, const char* what) {
  bool good = codes.rank() >= 1 && exponents.rank() == codes.rank() && codes.last() == g.length &&
              exponents.last() == g.count;
  for (int64_t i = 0; good && i + 1 < codes.rank(); ++i) {
    good = codes.dims[static_cast<size_t>(i)] == exponents.dims[static_cast<size_t>(i)];
  }
  BQC_REQUIRE(good, what, " codes ", codes.shape(), " and exponents ", exponents.shape(), " should end in ",
              g.length, " and ", g.count, " and agree before");
}

void check_exponents(const Tensor& exponents, const char* what) {
  const int8_t* e = exponents.as<int8_t>();
  int8_t least = 0;
  for (int64_t i = 0; i < exponents.count; ++i) least = std::min(least, e[i]);
  BQC_REQUIRE(least >= kMinExponent, what, " ", exponents.shape(), " hold ", least,
              "; an exponent is at least ", kMinExponent);
}

float real_at(const Tensor& numbers, int64_t i) {
  if (numbers.type != ort::Type::f16) return numbers.as<float>()[i];
  float number;
  portable::kHalf.widen(numbers.as<uint16_t>() + i, 1, &number);
  return number;
}

Numbers::Numbers(const Node& node, size_t index, const char* what)
    : tensor_(node.real_constant(index, what, 1)) {
  if (tensor_.type != ort::Type::f16) return;
  widened_.resize(static_cast<size_t>(tensor_.count));
  portable::kHalf.widen(tensor_.as<uint16_t>(), tensor_.count, widened_.data());
}

void check_finite(const Tensor& numbers, const char* what) {
  for (int64_t i = 0; i < numbers.count; ++i) {
    BQC_REQUIRE(std::isfinite(real_at(numbers, i)), what, " ", numbers.shape(),
                " hold NaN or an infinity; they are finite numbers");
  }
}

std::vector<int64_t> with_last(std::vector<int64_t> dims, int64_t last) {
  dims.back() = last;
  return dims;
}

std::vector<Dim> with_last(std::vector<Dim> dims, Dim last) {
  dims.back() = last;
  return dims;
}

int64_t rows_of(const Tensor& x) { return product_of(x.dims.data(), x.dims.empty() ? 0 : x.dims.size() - 1); }

// An address sanitizer is told how much of a buffer was asked for: the rest is out of bounds.
#if defined(__SANITIZE_ADDRESS__)
extern "C" void __asan_poison_memory_region(const volatile void*, size_t);
extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t);
static void mark_usable(void* data, size_t bytes, size_t size) {
  __asan_unpoison_memory_region(data, bytes);
  __asan_poison_memory_region(static_cast<char*>(data) + bytes, size - bytes);
}
#else
static void mark_usable(void*, size_t, size_t) {}
#endif

void* scratch_bytes(Slot slot, size_t bytes) {
  struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffers[static_cast<size_t>(Slot::count)];
  Buffer& buffer = buffers[static_cast<size_t>(slot)];
  if (bytes > buffer.size) {
    if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
    std::free(buffer.data);
    buffer.data = nullptr;
    buffer.size = 0;
    const size_t wanted = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    buffer.data = std::aligned_alloc(64, wanted);
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = wanted;
  }
  mark_usable(buffer.data, bytes, buffer.size);
  return buffer.data;
}

void infer_quantized(const Inference& node, const std::vector<Dim>& like, Dim columns,
                     const std::string& prefix) {
  if (like.empty()) return;
  const int64_t block = node.integer((prefix + "block").c_str(), 64);
  const int64_t group = node.integer((prefix + "group").c_str(), 0);
  node.output(0, ort::Type::i8, with_last(like, columns));
  node.output(1, ort::Type::i8, with_last(like, Dim(block_count(columns.value, block, group))));
}

}  // namespace bqc
