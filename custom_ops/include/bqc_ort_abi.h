// The part of the ONNX Runtime C ABI that these custom ops call.
//
// ONNX Runtime hands a plug-in one pointer to a two-entry struct; its first entry returns a table of function
// pointers for a requested API level. The position of an entry never changes once released, so the table is
// described here by slot number. tests/abi_check.cc compares every number and field offset with the official
// header wherever that header is installed.
#pragma once

#include <cstddef>
#include <cstdint>

#define BQC_EXPORT extern "C" __attribute__((visibility("default")))

namespace bqc::ort {

inline constexpr uint32_t kApiLevel = 18;

// Handles: only ever used through pointers.
struct Status;
struct Value;
struct Shape;  // element type + dimensions
struct KernelInfo;
struct KernelContext;
struct ShapeContext;
struct Options;
struct Domain;
struct Attribute;

enum class Type : int { undefined = 0, f32 = 1, u8 = 2, i8 = 3, i32 = 6, i64 = 7, f16 = 10 };
enum class Code : int { ok = 0, fail = 1, invalid_argument = 2 };
enum class Arity : int { required = 0 };
enum class AttributeType : int { integer = 1, real = 3 };

enum Slot : size_t {
  kCreateStatus = 0,
  kErrorMessage = 2,
  kCreateDomain = 26,
  kDomainAddOp = 27,
  kOptionsAddDomain = 28,
  kTensorData = 51,
  kShapeCreate = 57,
  kShapeSetType = 58,
  kShapeSetDims = 59,
  kShapeGetType = 60,
  kShapeRank = 61,
  kShapeGetDims = 62,
  kShapeGetSymbols = 63,
  kTensorShape = 65,
  kInfoFloat = 85,
  kInfoInt = 86,
  kInfoString = 87,
  kContextInputCount = 88,
  kContextInput = 90,
  kContextOutput = 91,
  kStatusRelease = 93,
  kShapeRelease = 99,
  kInfoNodeName = 244,
  kInfoConstantInput = 249,
  kInferInputShape = 268,
  kInferAttribute = 269,
  kInferSetOutputShape = 270,
  kShapeSetSymbols = 271,
  kReadAttribute = 272,
  kParallelFor = 274,
};

struct ApiBase {
  const void* const* (*table)(uint32_t level);
  const char* (*version)();
};

// What ONNX Runtime asks about an op; field order and types are the ABI.
struct Op {
  uint32_t level;
  void* (*create_v1)(const Op*, const void* const*, const KernelInfo*);
  const char* (*name)(const Op*);
  const char* (*provider)(const Op*);
  Type (*input_type)(const Op*, size_t);
  size_t (*input_count)(const Op*);
  Type (*output_type)(const Op*, size_t);
  size_t (*output_count)(const Op*);
  void (*compute_v1)(void*, KernelContext*);
  void (*destroy)(void*);
  Arity (*input_arity)(const Op*, size_t);
  Arity (*output_arity)(const Op*, size_t);
  int (*input_memory)(const Op*, size_t);
  int (*variadic_in_min)(const Op*);
  int (*variadic_in_same)(const Op*);
  int (*variadic_out_min)(const Op*);
  int (*variadic_out_same)(const Op*);
  Status* (*create)(const Op*, const void* const*, const KernelInfo*, void**);
  Status* (*compute)(void*, KernelContext*);
  Status* (*infer)(const Op*, ShapeContext*);
  int (*since)(const Op*);
  int (*until)(const Op*);
  size_t (*inplace)(int**, int**);
  void (*inplace_release)(int*, int*);
  size_t (*alias)(int**, int**);
  void (*alias_release)(int*, int*);
};

// Typed calls through the table.
class Api {
 public:
  explicit Api(const void* const* table) : table_(table) {}

  template <class Result = Status*, class... Args>
  Result call(Slot slot, Args... args) const {
    using Function = Result (*)(Args...);
    return reinterpret_cast<Function>(const_cast<void*>(table_[slot]))(args...);
  }
  Status* error(const char* text, Code code = Code::fail) const {
    return call<Status*>(kCreateStatus, static_cast<int>(code), text);
  }

 private:
  const void* const* table_;
};

}  // namespace bqc::ort
