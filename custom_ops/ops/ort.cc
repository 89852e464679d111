// The C++ side of the ABI: attributes, tensors, shape inference.
#include <algorithm>
#include <cmath>
#include <thread>

#include "bqc_ort.h"

namespace bqc {

using namespace ort;

namespace {

// Throws the text of a failed call.
void check(const Api& api, Status* status) {
  if (!status) return;
  const std::string text = api.call<const char*>(kErrorMessage, static_cast<const Status*>(status));
  api.call<void>(kStatusRelease, status);
  throw Error(text);
}

// Whether the call worked; a failure is forgotten.
bool works(const Api& api, Status* status) {
  if (status) api.call<void>(kStatusRelease, status);
  return !status;
}

const char* type_name(Type type) {
  switch (type) {
    case Type::f32:
      return "float32";
    case Type::u8:
      return "uint8";
    case Type::i8:
      return "int8";
    case Type::i64:
      return "int64";
    case Type::f16:
      return "float16";
    default:
      return "another type";
  }
}

Tensor view(const Api& api, const Value* value, Type* type = nullptr) {
  Shape* shape = nullptr;
  check(api, api.call(kTensorShape, value, &shape));
  const Shape* s = shape;
  Tensor t;
  size_t rank = 0;
  Status* status = api.call(kShapeRank, s, &rank);
  t.dims.resize(rank);
  if (!status) status = api.call(kShapeGetDims, s, t.dims.data(), rank);
  int element = 0;
  if (!status && type) status = api.call(kShapeGetType, s, &element);
  if (type) *type = static_cast<Type>(element);
  api.call<void>(kShapeRelease, shape);
  check(api, status);
  t.count = product_of(t.dims.data(), rank);
  void* data = nullptr;
  check(api, api.call(kTensorData, const_cast<Value*>(value), &data));
  t.data = data;
  return t;
}

}  // namespace

int64_t product_of(const int64_t* dims, size_t count) {
  int64_t product = 1;
  bool fits = true;
  for (size_t i = 0; i < count; ++i) {
    if (dims[i] == 0) return 0;
    fits = fits && !__builtin_mul_overflow(product, dims[i], &product);
  }
  BQC_REQUIRE(fits && product >= 0, "a tensor of more elements than can be counted");
  return product;
}

std::string Tensor::shape() const {
  std::string text = "[";
  for (size_t i = 0; i < dims.size(); ++i) text += (i ? ", " : "") + std::to_string(dims[i]);
  return text + "]";
}

std::string Node::name() const {
  size_t size = 0;
  // The first call tells the size: one version answers it with an error, another with success.
  if (!works(api_, api_.call(kInfoNodeName, info_, static_cast<char*>(nullptr), &size)) && size == 0)
    return {};
  std::string text(size, '\0');
  if (size && !works(api_, api_.call(kInfoNodeName, info_, text.data(), &size))) return {};
  while (!text.empty() && text.back() == '\0') text.pop_back();
  return text;
}

int64_t Node::integer(const char* name, int64_t fallback) const {
  int64_t value = 0;
  return works(api_, api_.call(kInfoInt, info_, name, &value)) ? value : fallback;
}

float Node::real(const char* name, float fallback) const {
  float value = 0;
  if (!works(api_, api_.call(kInfoFloat, info_, name, &value))) return fallback;
  BQC_REQUIRE(std::isfinite(value), "attribute ", name, " is not finite");
  return value;
}

void Node::expect(const char* name, const std::string& value) const {
  size_t size = 0;
  const bool told = works(api_, api_.call(kInfoString, info_, name, static_cast<char*>(nullptr), &size));
  if (!told && size == 0) return;
  std::string text(size, '\0');
  if (!works(api_, api_.call(kInfoString, info_, name, text.data(), &size))) return;
  while (!text.empty() && text.back() == '\0') text.pop_back();
  BQC_REQUIRE(text == value, "attribute ", name, " is '", text, "'; this library reads '", value, "'");
}

Tensor Node::any_constant(size_t index, const char* what, int64_t rank) const {
  int is_constant = 0;
  const Value* value = nullptr;
  check(api_, api_.call(kInfoConstantInput, info_, index, &is_constant, &value));
  BQC_REQUIRE(is_constant && value, what, " must be a constant initializer");
  Type found = Type::undefined;
  Tensor t = view(api_, value, &found);
  t.type = found;
  BQC_REQUIRE(t.rank() == rank, what, " ", t.shape(), " should have ", rank, " dimensions");
  return t;
}

Tensor Node::constant(size_t index, const char* what, Type type, int64_t rank) const {
  Tensor t = any_constant(index, what, rank);
  BQC_REQUIRE(t.type == type, what, " is ", type_name(t.type), " and should be ", type_name(type));
  return t;
}

Tensor Node::real_constant(size_t index, const char* what, int64_t rank) const {
  Tensor t = any_constant(index, what, rank);
  BQC_REQUIRE(t.type == Type::f32 || t.type == Type::f16, what, " is ", type_name(t.type),
              " and should be float32 or float16");
  return t;
}

int64_t Threads::likely() const {
  static const int64_t cpus = std::max<int64_t>(1, std::thread::hardware_concurrency());
  constexpr int64_t kEnough = 8;
  // A thread that was always alone may have been waiting for a second one that was busy elsewhere.
  return left_to_fewer_ < kEnough ? cpus : std::min(cpus, std::max<int64_t>(2, most_));
}

void Threads::note(int64_t n, int64_t came) {
  constexpr int64_t kLoops = 1024;  // between two tries
  if (++loops_ % kLoops == 0) {
    most_ = 1;
    left_to_fewer_ = 0;
  }
  if (came > most_) {
    most_ = came;
    left_to_fewer_ = 0;
  } else if (n >= 4 * most_) {
    ++left_to_fewer_;
  }
}

Tensor Call::input(size_t index) const {
  const Value* value = nullptr;
  check(api_, api_.call(kContextInput, static_cast<const KernelContext*>(context_), index, &value));
  BQC_REQUIRE(value, "input ", index, " is missing");
  return view(api_, value);
}

void* Call::output_data(size_t index, const std::vector<int64_t>& dims) const {
  Value* value = nullptr;
  check(api_, api_.call(kContextOutput, context_, index, dims.data(), dims.size(), &value));
  void* data = nullptr;
  check(api_, api_.call(kTensorData, value, &data));
  return data;
}

void Call::run_parallel(int64_t n, void (*step)(void*, size_t), void* self) const {
  // One batch a task: tasks are then handed out one by one, and a slow core does not hold up the rest.
  const size_t total = static_cast<size_t>(n);
  check(api_, api_.call(kParallelFor, static_cast<const KernelContext*>(context_), step, total, total, self));
}

uint64_t Call::next_loop() {
  static std::atomic<uint64_t> loops{0};
  return ++loops;
}

bool Call::is_new_here(uint64_t loop) {
  thread_local uint64_t last = 0;
  if (last == loop) return false;
  last = loop;
  return true;
}

std::vector<Dim> Inference::input(size_t index) const {
  Shape* shape = nullptr;
  if (!works(api_, api_.call(kInferInputShape, static_cast<const ShapeContext*>(context_), index, &shape)) ||
      !shape) {
    return {};
  }
  const Shape* s = shape;
  size_t rank = 0;
  if (!works(api_, api_.call(kShapeRank, s, &rank)) || rank == 0) return {};
  std::vector<int64_t> values(rank, -1);
  std::vector<const char*> symbols(rank, "");
  if (!works(api_, api_.call(kShapeGetDims, s, values.data(), rank))) return {};
  if (!works(api_, api_.call(kShapeGetSymbols, s, symbols.data(), rank))) symbols.assign(rank, "");
  std::vector<Dim> dims(rank);
  for (size_t i = 0; i < rank; ++i) {
    dims[i].value = values[i];
    if (symbols[i]) dims[i].symbol = symbols[i];
  }
  return dims;
}

int64_t Inference::integer(const char* name, int64_t fallback) const {
  const Attribute* attribute = nullptr;
  if (!works(api_,
             api_.call(kInferAttribute, static_cast<const ShapeContext*>(context_), name, &attribute)) ||
      !attribute) {
    return fallback;
  }
  int64_t value = 0;
  size_t read = 0;
  return works(api_, api_.call(kReadAttribute, attribute, static_cast<int>(AttributeType::integer),
                               static_cast<void*>(&value), sizeof value, &read))
             ? value
             : fallback;
}

void Inference::output(size_t index, Type type, const std::vector<Dim>& dims) const {
  std::vector<int64_t> values;
  std::vector<const char*> symbols;
  for (const Dim& d : dims) {
    values.push_back(d.value);
    symbols.push_back(d.symbol.c_str());
  }
  Shape* shape = nullptr;
  check(api_, api_.call(kShapeCreate, &shape));
  Status* status = api_.call(kShapeSetType, shape, static_cast<int>(type));
  if (!status) {
    status = api_.call(kShapeSetDims, shape, static_cast<const int64_t*>(values.data()), values.size());
  }
  if (!status) status = api_.call(kShapeSetSymbols, shape, symbols.data(), symbols.size());
  if (!status) {
    status = api_.call(kInferSetOutputShape, static_cast<const ShapeContext*>(context_), index,
                       static_cast<const Shape*>(shape));
  }
  api_.call<void>(kShapeRelease, shape);
  check(api_, status);
}

}  // namespace bqc
