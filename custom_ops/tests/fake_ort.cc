#include "fake_ort.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <thread>

// What the library only ever sees pointers to.
namespace bqc::ort {

struct Status {
  std::string text;
};
struct Shape {
  int type = 0;
  std::vector<int64_t> dims;
  std::vector<std::string> symbols;
};
struct Value {
  fake::Array array;
};
struct KernelInfo {
  const fake::Case* node;
  std::vector<Value> values;
};
struct KernelContext {
  std::vector<Value> inputs, outputs;
  int threads;
};
struct Attribute {
  fake::Attribute value;
};
struct ShapeContext {
  const fake::Case* node;
  std::vector<Shape> inputs;
  std::map<std::string, Attribute> attributes;
  std::map<size_t, Shape> outputs;
};
struct Options {
  const Domain* domain = nullptr;
};
struct Domain {
  std::vector<const Op*> operators;
};

}  // namespace bqc::ort

BQC_EXPORT bqc::ort::Status* RegisterCustomOps(bqc::ort::Options*, const bqc::ort::ApiBase*);

namespace fake {
namespace {

using namespace bqc::ort;

constexpr size_t kMostBytes = size_t{64} << 20;

size_t element_size(Type type) {
  switch (type) {
    case Type::f32:
    case Type::i32:
      return 4;
    case Type::i64:
      return 8;
    case Type::f16:
      return 2;
    default:
      return 1;
  }
}

Status* status(const std::string& text) { return new Status{text}; }

Status* create_status(int, const char* text) { return status(text); }
const char* error_message(const Status* s) { return s->text.c_str(); }
void release_status(Status* s) { delete s; }

Status* create_domain(const char*, Domain** out) {
  *out = new Domain;
  return nullptr;
}
Status* domain_add(Domain* domain, const Op* op) {
  domain->operators.push_back(op);
  return nullptr;
}
Status* options_add(Options* options, Domain* domain) {
  options->domain = domain;
  return nullptr;
}

Status* tensor_data(Value* value, void** out) {
  *out = value->array.data.get();
  return nullptr;
}
Status* tensor_shape(const Value* value, Shape** out) {
  *out = new Shape{static_cast<int>(value->array.type), value->array.dims, {}};
  return nullptr;
}
Status* shape_create(Shape** out) {
  *out = new Shape;
  return nullptr;
}
Status* shape_set_type(Shape* shape, int type) {
  shape->type = type;
  return nullptr;
}
Status* shape_set_dims(Shape* shape, const int64_t* dims, size_t n) {
  shape->dims.assign(dims, dims + n);
  return nullptr;
}
Status* shape_set_symbols(Shape* shape, const char** symbols, size_t n) {
  shape->symbols.assign(symbols, symbols + n);
  return nullptr;
}
Status* shape_get_type(const Shape* shape, int* out) {
  *out = shape->type;
  return nullptr;
}
Status* shape_rank(const Shape* shape, size_t* out) {
  *out = shape->dims.size();
  return nullptr;
}
Status* shape_get_dims(const Shape* shape, int64_t* out, size_t n) {
  std::copy_n(shape->dims.begin(), n, out);
  return nullptr;
}
Status* shape_get_symbols(const Shape* shape, const char** out, size_t n) {
  for (size_t i = 0; i < n; ++i) out[i] = i < shape->symbols.size() ? shape->symbols[i].c_str() : "";
  return nullptr;
}
void shape_release(Shape* shape) { delete shape; }

template <class T>
const T* attribute(const Case& node, const char* name) {
  const auto found = node.attributes.find(name);
  return found == node.attributes.end() ? nullptr : std::get_if<T>(&found->second);
}

template <class T>
Status* info_number(const KernelInfo* info, const char* name, T* out) {
  const T* value = attribute<T>(*info->node, name);
  if (!value) return status("no attribute");
  *out = *value;
  return nullptr;
}

Status* copy_text(const std::string& text, char* out, size_t* size) {
  const size_t needed = text.size() + 1, room = *size;
  *size = needed;
  if (!out) return nullptr;
  if (room < needed) return status("too small");
  std::memcpy(out, text.c_str(), needed);
  return nullptr;
}

Status* info_string(const KernelInfo* info, const char* name, char* out, size_t* size) {
  const std::string* value = attribute<std::string>(*info->node, name);
  return value ? copy_text(*value, out, size) : status("no attribute");
}
Status* info_node_name(const KernelInfo* info, char* out, size_t* size) {
  return copy_text("the " + info->node->op, out, size);
}
Status* info_constant(const KernelInfo* info, size_t i, int* constant, const Value** out) {
  *constant = info->node->constants.count(i) ? 1 : 0;
  *out = *constant && i < info->values.size() ? &info->values[i] : nullptr;
  return nullptr;
}

Status* context_input_count(const KernelContext* context, size_t* out) {
  *out = context->inputs.size();
  return nullptr;
}
Status* context_input(const KernelContext* context, size_t i, const Value** out) {
  *out = i < context->inputs.size() ? &context->inputs[i] : nullptr;
  return nullptr;
}
Status* context_output(KernelContext* context, size_t i, const int64_t* dims, size_t n, Value** out) {
  try {
    context->outputs[i].array = Array(context->outputs[i].array.type, {dims, dims + n});
  } catch (const std::bad_alloc&) {
    return status("the output is too large");
  }
  *out = &context->outputs[i];
  return nullptr;
}

Status* parallel_for(const KernelContext* context, void (*step)(void*, size_t), size_t n, size_t,
                     void* self) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < n; i = next++) step(self, i);
  };
  std::vector<std::thread> others;
  for (int t = 1; t < context->threads; ++t) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  return nullptr;
}

Status* infer_input(const ShapeContext* context, size_t i, Shape** out) {
  if (i >= context->inputs.size()) return status("no such input");
  *out = const_cast<Shape*>(&context->inputs[i]);
  return nullptr;
}
Status* infer_attribute(const ShapeContext* context, const char* name, const bqc::ort::Attribute** out) {
  const auto found = context->attributes.find(name);
  if (found == context->attributes.end()) return status("no attribute");
  *out = &found->second;
  return nullptr;
}
Status* infer_output(const ShapeContext* context, size_t i, const Shape* shape) {
  const_cast<ShapeContext*>(context)->outputs[i] = *shape;
  return nullptr;
}
Status* read_attribute(const bqc::ort::Attribute* attribute, int type, void* out, size_t size, size_t* read) {
  const int64_t* value = std::get_if<int64_t>(&attribute->value);
  if (!value || type != static_cast<int>(AttributeType::integer) || size < sizeof *value)
    return status("not that");
  std::memcpy(out, value, sizeof *value);
  *read = sizeof *value;
  return nullptr;
}

struct Entry {
  Slot slot;
  const void* function;
};

template <class Function>
Entry entry(Slot slot, Function* function) {
  return {slot, reinterpret_cast<const void*>(function)};
}

const void* const* table(uint32_t level) {
  static const std::vector<const void*> all = [] {
    std::vector<const void*> t(300, nullptr);
    for (const Entry& e : {
             entry(kCreateStatus, create_status),
             entry(kErrorMessage, error_message),
             entry(kCreateDomain, create_domain),
             entry(kDomainAddOp, domain_add),
             entry(kOptionsAddDomain, options_add),
             entry(kTensorData, tensor_data),
             entry(kShapeCreate, shape_create),
             entry(kShapeSetType, shape_set_type),
             entry(kShapeSetDims, shape_set_dims),
             entry(kShapeGetType, shape_get_type),
             entry(kShapeRank, shape_rank),
             entry(kShapeGetDims, shape_get_dims),
             entry(kShapeGetSymbols, shape_get_symbols),
             entry(kTensorShape, tensor_shape),
             entry(kInfoFloat, info_number<float>),
             entry(kInfoInt, info_number<int64_t>),
             entry(kInfoString, info_string),
             entry(kContextInputCount, context_input_count),
             entry(kContextInput, context_input),
             entry(kContextOutput, context_output),
             entry(kStatusRelease, release_status),
             entry(kShapeRelease, shape_release),
             entry(kInfoNodeName, info_node_name),
             entry(kInfoConstantInput, info_constant),
             entry(kInferInputShape, infer_input),
             entry(kInferAttribute, infer_attribute),
             entry(kInferSetOutputShape, infer_output),
             entry(kShapeSetSymbols, shape_set_symbols),
             entry(kReadAttribute, read_attribute),
             entry(kParallelFor, parallel_for),
         }) {
      t[e.slot] = e.function;
    }
    return t;
  }();
  return level == kApiLevel || level == 1 ? all.data() : nullptr;
}

// The text of a status, which is released.
std::string take(Status* s) {
  if (!s) return {};
  const std::unique_ptr<Status> held(s);
  return s->text.empty() ? "an error without a text" : s->text;
}

const std::vector<const Op*>& registered() {
  static const std::vector<const Op*> all = [] {
    Options options;
    const ApiBase from = base();
    const std::string error = take(RegisterCustomOps(&options, &from));
    return error.empty() ? options.domain->operators : std::vector<const Op*>();
  }();
  return all;
}

const Op* find(const std::string& name) {
  for (const Op* op : registered()) {
    if (op->name(op) == name) return op;
  }
  throw std::invalid_argument("no operator " + name);
}

std::vector<Value> values_of(const std::vector<Array>& arrays) {
  std::vector<Value> values;
  for (const Array& a : arrays) values.push_back({a});
  return values;
}

}  // namespace

Array::Array(Type t, std::vector<int64_t> d) : type(t), dims(std::move(d)) {
  size_t size = element_size(type);
  for (const int64_t n : dims) {
    if (n < 0 || __builtin_mul_overflow(size, static_cast<size_t>(n), &size)) throw std::bad_alloc();
  }
  if (size > kMostBytes) throw std::bad_alloc();
  data.reset(new char[size]);
}

size_t Array::count() const { return bytes() / element_size(type); }

size_t Array::bytes() const {
  size_t size = element_size(type);
  for (const int64_t n : dims) size *= static_cast<size_t>(n);
  return size;
}

bool Array::operator==(const Array& other) const {
  return type == other.type && dims == other.dims && std::memcmp(data.get(), other.data.get(), bytes()) == 0;
}

Session::Session(const Case& node) : op_(find(node.op)) {
  const KernelInfo info{&node, values_of(node.inputs)};
  error_ = take(op_->create(op_, table(kApiLevel), &info, &kernel_));
}

Session::~Session() {
  if (kernel_) op_->destroy(kernel_);
}

Result Session::run(const std::vector<Array>& inputs, int threads) const {
  KernelContext context{values_of(inputs), {}, threads};
  context.outputs.resize(op_->output_count(op_));
  for (size_t i = 0; i < context.outputs.size(); ++i)
    context.outputs[i].array.type = op_->output_type(op_, i);
  Result result;
  result.error = take(op_->compute(kernel_, &context));
  for (Value& value : context.outputs) result.outputs.push_back(std::move(value.array));
  return result;
}

std::vector<std::string> infer(const Case& node) {
  ShapeContext context{&node, {}, {}, {}};
  for (const Array& a : node.inputs) context.inputs.push_back({static_cast<int>(a.type), a.dims, {}});
  for (const auto& [name, value] : node.attributes) context.attributes[name] = {value};
  const Op* op = find(node.op);
  const std::string error = take(op->infer(op, &context));
  if (!error.empty()) return {"error: " + error};
  std::vector<std::string> texts(op->output_count(op));
  for (const auto& [i, shape] : context.outputs) {
    texts.at(i) = std::to_string(shape.type) + ":";
    for (const int64_t d : shape.dims) texts[i] += " " + std::to_string(d);
  }
  return texts;
}

std::vector<std::string> operators() {
  std::vector<std::string> names;
  for (const Op* op : registered()) names.emplace_back(op->name(op));
  return names;
}

size_t register_with(const ApiBase& from) {
  Options options;
  const std::string error = take(RegisterCustomOps(&options, &from));
  return error.empty() ? options.domain->operators.size() : 0;
}

ApiBase base() {
  return {table, [] { return "0.0.0"; }};
}

}  // namespace fake
