// RegisterCustomOps, and what stands between ONNX Runtime and a kernel: no exception passes here.
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "bqc_ort.h"
#include "ops/introspection.h"

namespace bqc {
namespace {

using namespace ort;

std::mutex registration;
const void* const* registered_table = nullptr;  // for shape inference, which is handed no table

std::string label(const char* op, const std::string& node) {
  return std::string("ai.bqc::") + op + (node.empty() ? "" : " '" + node + "'") + ": ";
}

struct Instance {
  Api api;
  std::string label;
  std::unique_ptr<Kernel> kernel;
};

// Runs body and turns an exception into a status.
template <class Body>
Status* guarded(const Api& api, const std::string& label, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Error& e) {
    return api.error((label + e.what()).c_str(), Code::invalid_argument);
  } catch (const std::bad_alloc&) {
    return api.error((label + "out of memory").c_str());
  } catch (const std::exception& e) {
    return api.error((label + e.what()).c_str());
  } catch (...) {
    return api.error((label + "unknown failure").c_str());
  }
}

struct Operator : Op {
  OpSpec spec;

  static const OpSpec& of(const Op* op) { return static_cast<const Operator*>(op)->spec; }

  explicit Operator(OpSpec s) : Op{}, spec(std::move(s)) {
    level = kApiLevel;
    name = [](const Op* op) { return of(op).name; };
    provider = [](const Op*) -> const char* { return nullptr; };  // the CPU
    input_count = [](const Op* op) { return of(op).inputs.size(); };
    output_count = [](const Op* op) { return of(op).outputs.size(); };
    input_type = [](const Op* op, size_t i) { return of(op).inputs[i]; };
    output_type = [](const Op* op, size_t i) { return of(op).outputs[i]; };
    input_arity = output_arity = [](const Op*, size_t) { return Arity::required; };
    input_memory = [](const Op*, size_t) { return 0; };
    variadic_in_min = variadic_in_same = variadic_out_min = variadic_out_same = [](const Op*) { return 1; };
    create = &Operator::create_kernel;
    compute = [](void* self, KernelContext* context) -> Status* {
      const Instance& instance = *static_cast<const Instance*>(self);
      return guarded(instance.api, instance.label,
                     [&] { instance.kernel->compute(Call(instance.api, context)); });
    };
    destroy = [](void* self) { delete static_cast<Instance*>(self); };
    infer = [](const Op* op, ShapeContext* context) -> Status* {
      const Api api(registered_table);
      return guarded(api, label(of(op).name, ""), [&] { of(op).infer(Inference(api, context)); });
    };
    since = [](const Op*) { return 1; };
    until = [](const Op*) { return 0x7fffffff; };
  }

  static Status* create_kernel(const Op* op, const void* const* table, const KernelInfo* info, void** out) {
    const Api api(table);
    const OpSpec& spec = of(op);
    std::string text = std::string("ai.bqc::") + spec.name + ": ";
    return guarded(api, text, [&] {
      const Node node(api, info);
      const std::string node_name = node.name();
      const Choice choice = choose_kernels();
      auto instance = std::make_unique<Instance>(Instance{api, label(spec.name, node_name), nullptr});
      try {
        instance->kernel = spec.make(node, choice.set);
      } catch (const Error& e) {
        throw Error((node_name.empty() ? "" : "node '" + node_name + "': ") + e.what());
      }
      note_kernel(node_name, spec.name, choice.set->name);
      const char* verbose = std::getenv("BQC_VERBOSE");
      if (verbose && *verbose && *verbose != '0') {
        std::fprintf(stderr, "bqc: %s %s -> %s (%s)\n", node_name.c_str(), spec.name, choice.set->name,
                     choice.reason.c_str());
      }
      *out = instance.release();
    });
  }
};

// Lives as long as the process: sessions keep pointers into it.
std::deque<Operator>& operators() {
  static auto* all = [] {
    auto* list = new std::deque<Operator>;
    for (auto family : {conversion_ops, elementwise_ops, linear_ops, attention_ops, embedding_ops}) {
      for (OpSpec& spec : family()) list->emplace_back(std::move(spec));
    }
    return list;
  }();
  return *all;
}

Status* add_domain(Options* options, const Api& api) {
  static Domain* domain = nullptr;
  if (!domain) {
    Domain* fresh = nullptr;
    if (Status* status = api.call(kCreateDomain, "ai.bqc", &fresh)) return status;
    for (Operator& op : operators()) {
      if (Status* status = api.call(kDomainAddOp, fresh, static_cast<const Op*>(&op))) return status;
    }
    domain = fresh;
  }
  return api.call(kOptionsAddDomain, options, domain);
}

}  // namespace
}  // namespace bqc

BQC_EXPORT bqc::ort::Status* RegisterCustomOps(bqc::ort::Options* options, const bqc::ort::ApiBase* base) {
  using namespace bqc::ort;
  const void* const* table = base->table(kApiLevel);
  if (!table) {
    const std::string text =
        std::string("ai.bqc needs ONNX Runtime 1.18 or newer; this is ") + base->version();
    return Api(base->table(1)).error(text.c_str());
  }
  const std::lock_guard<std::mutex> lock(bqc::registration);
  bqc::registered_table = table;
  return bqc::add_domain(options, Api(table));
}
