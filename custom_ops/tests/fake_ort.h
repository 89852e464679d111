// An ONNX Runtime of a few hundred lines: the entries of the API table that the operators call, over plain
// memory and std::thread, so that sanitizers see all of what an operator does and nothing else.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "bqc_ort_abi.h"

namespace fake {

using bqc::ort::Type;
using Attribute = std::variant<int64_t, float, std::string>;

// A tensor in memory of exactly its size, so that one byte beyond it is noticed.
struct Array {
  Type type = Type::f32;
  std::vector<int64_t> dims;
  std::shared_ptr<char[]> data;

  Array() = default;
  // Uninitialised; throws std::bad_alloc beyond 64 MiB.
  Array(Type type, std::vector<int64_t> dims);
  size_t count() const;
  size_t bytes() const;
  bool operator==(const Array& other) const;

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data.get());
  }
};

// A node with its inputs.
struct Case {
  std::string op;
  std::map<std::string, Attribute> attributes;
  std::vector<Array> inputs;
  std::set<size_t> constants;
};

// What came out of one run; error is empty where all went well.
struct Result {
  std::string error;
  std::vector<Array> outputs;
};

// A kernel as a session holds it; several threads may run it.
class Session {
 public:
  explicit Session(const Case& node);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Why there is no kernel, or empty.
  const std::string& error() const { return error_; }
  // Parallel loops run on so many threads, the caller's among them.
  Result run(const std::vector<Array>& inputs, int threads) const;

 private:
  const bqc::ort::Op* op_;
  void* kernel_ = nullptr;
  std::string error_;
};

// Output shapes as inference tells them, "float32 [2, n]" and so on; an error begins with "error: ".
std::vector<std::string> infer(const Case& node);

// Names of the operators that the library registers.
std::vector<std::string> operators();

// The table for an API level, as RegisterCustomOps asks for it, and how many operators that registered.
size_t register_with(const bqc::ort::ApiBase& base);
bqc::ort::ApiBase base();

}  // namespace fake
