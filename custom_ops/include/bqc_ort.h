// C++ over the C ABI: attributes, tensors, parallel loops, shape inference, and the op that forwards to a
// kernel class.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "bqc_ort_abi.h"
#include "kernels/dispatch.h"

namespace bqc {

// What a wrong model or input is answered with; the boundary adds operator and node.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline std::string text_of(const std::string& text) { return text; }
inline std::string text_of(int64_t number) { return std::to_string(number); }

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error((text_of(parts) + ...));
}

// Throws Error of all the parts, which are looked at only then.
#define BQC_REQUIRE(good, ...)             \
  do {                                     \
    if (!(good)) ::bqc::fail(__VA_ARGS__); \
  } while (false)

// Throws Error where the product does not fit; a dimension of 0 makes it 0 whatever the others are.
int64_t product_of(const int64_t* dims, size_t count);

struct Tensor {
  std::vector<int64_t> dims;
  int64_t count = 0;
  const void* data = nullptr;
  ort::Type type = ort::Type::undefined;  // of constants only

  template <class T>
  const T* as() const {
    return static_cast<const T*>(data);
  }
  int64_t rank() const { return static_cast<int64_t>(dims.size()); }
  int64_t last() const { return dims.back(); }
  std::string shape() const;
};

// A node at kernel creation.
class Node {
 public:
  Node(ort::Api api, const ort::KernelInfo* info) : api_(api), info_(info) {}

  std::string name() const;
  // Attributes, with the defaults of the operator's function body.
  int64_t integer(const char* name, int64_t fallback) const;
  float real(const char* name, float fallback) const;
  // Throws unless the string attribute is missing or has this value.
  void expect(const char* name, const std::string& value) const;
  // A constant initializer of this type and rank.
  Tensor constant(size_t index, const char* what, ort::Type type, int64_t rank) const;
  // One of float32 or float16 numbers.
  Tensor real_constant(size_t index, const char* what, int64_t rank) const;

 private:
  // Of any type.
  Tensor any_constant(size_t index, const char* what, int64_t rank) const;

  ort::Api api_;
  const ort::KernelInfo* info_;
};

// How many threads a session has. ONNX Runtime does not tell, so that it is learned from how many come to the
// loops of one of its kernels.
class Threads {
 public:
  // One for every CPU, until some loops with work for more were left to fewer; now and then that is tried
  // again, as other threads may have been busy elsewhere.
  int64_t likely() const;
  // To be told after a loop of n tasks that so many threads took part in.
  void note(int64_t n, int64_t came);

 private:
  std::atomic<int64_t> most_{1}, left_to_fewer_{0}, loops_{0};
};

// One call of a kernel.
class Call {
 public:
  Call(ort::Api api, ort::KernelContext* context, Threads& threads)
      : api_(api), context_(context), threads_(threads) {}

  Tensor input(size_t index) const;
  template <class T>
  T* output(size_t index, const std::vector<int64_t>& dims) const {
    return static_cast<T*>(output_data(index, dims));
  }
  // Threads that the session is likely to have.
  int64_t threads() const { return threads_.likely(); }
  // body(i) for i in [0, n) on the session's threads. The first exception of a body is thrown here.
  template <class Body>
  void parallel(int64_t n, const Body& body) const {
    if (n == 1) body(int64_t{0});
    if (n <= 1) return;
    Loop<Body> loop{&body, next_loop(), {}, {}, {}};
    run_parallel(n, &Loop<Body>::step, &loop);
    threads_.note(n, loop.came);
    if (loop.failed) std::rethrow_exception(loop.error);
  }

 private:
  template <class Body>
  struct Loop {
    const Body* body;
    uint64_t number;
    std::atomic<int64_t> came;
    std::atomic<bool> failed;
    std::exception_ptr error;

    static void step(void* self, size_t i) {
      Loop& loop = *static_cast<Loop*>(self);
      if (is_new_here(loop.number)) ++loop.came;
      if (loop.failed) return;
      try {
        (*loop.body)(static_cast<int64_t>(i));
      } catch (...) {
        if (!loop.failed.exchange(true)) loop.error = std::current_exception();
      }
    }
  };
  void* output_data(size_t index, const std::vector<int64_t>& dims) const;
  void run_parallel(int64_t n, void (*step)(void*, size_t), void* self) const;
  // A number that no other loop has.
  static uint64_t next_loop();
  // Whether this thread has not been in that loop just before.
  static bool is_new_here(uint64_t loop);

  ort::Api api_;
  ort::KernelContext* context_;
  Threads& threads_;
};

class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(const Call& call) const = 0;

  const KernelSet* set = nullptr;  // set before the constructor of a subclass ends
  // Instructions that are not those of the level, and why; empty where they are.
  std::string by, reason;
  mutable Threads threads;  // of its session
};

// A dimension in shape inference: a number, or -1 with a symbol that may be empty.
struct Dim {
  int64_t value = -1;
  std::string symbol;
  Dim() = default;
  Dim(int64_t v) : value(v) {}  // NOLINT: numbers are dimensions
};

// A node in shape inference.
class Inference {
 public:
  Inference(ort::Api api, ort::ShapeContext* context) : api_(api), context_(context) {}

  // Empty where the rank is unknown.
  std::vector<Dim> input(size_t index) const;
  int64_t integer(const char* name, int64_t fallback) const;
  void output(size_t index, ort::Type type, const std::vector<Dim>& dims) const;

 private:
  ort::Api api_;
  ort::ShapeContext* context_;
};

struct OpSpec {
  const char* name;
  // An input of an undefined type is of any: the kernel looks.
  std::vector<ort::Type> inputs, outputs;
  std::unique_ptr<Kernel> (*make)(const Node&, const KernelSet*);
  void (*infer)(const Inference&);
};

template <class T>
std::unique_ptr<Kernel> make_kernel(const Node& node, const KernelSet* set) {
  return std::make_unique<T>(node, set);
}

// Operators of each family.
std::vector<OpSpec> conversion_ops();
std::vector<OpSpec> static_ops();
std::vector<OpSpec> elementwise_ops();
std::vector<OpSpec> linear_ops();
std::vector<OpSpec> sign_linear_ops();
std::vector<OpSpec> half_ops();
std::vector<OpSpec> xnor_linear_ops();
std::vector<OpSpec> binarize_ops();
std::vector<OpSpec> sparse_linear_ops();
std::vector<OpSpec> attention_ops();
std::vector<OpSpec> float_attention_ops();
std::vector<OpSpec> embedding_ops();

}  // namespace bqc
