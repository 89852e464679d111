// RegisterCustomOps, and what stands between ONNX Runtime and a kernel: no exception passes here.
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>

#include "bqc_ort.h"
#include "ops/families.h"
#include "ops/introspection.h"

namespace bqc {
namespace {

using namespace ort;

std::string label(const char* op, const std::string& node) {
  return std::string("ai.bqc::") + op + (node.empty() ? "" : " '" + node + "'") + ": ";
}

struct Instance {
  Api api;
  std::string label;
  std::unique_ptr<Kernel> kernel;
};

Status* failure(const Api& api, const std::string& label, const char* what, Code code) noexcept {
  try {
    return api.error((label + what).c_str(), code);
  } catch (...) {  // no memory for the text either
    return api.error("ai.bqc: out of memory");
  }
}

// Runs body and turns an exception into a status.
template <class Body>
Status* guarded(const Api& api, const std::string& label, const Body& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Error& e) {
    return failure(api, label, e.what(), Code::invalid_argument);
  } catch (const std::bad_alloc&) {
    return failure(api, label, "out of memory", Code::fail);
  } catch (const std::exception& e) {
    return failure(api, label, e.what(), Code::fail);
  } catch (...) {
    return failure(api, label, "unknown failure", Code::fail);
  }
}

struct Operator : Op {
  OpSpec spec;
  Work work;
  const void* const* table;  // for shape inference, which is handed none
  std::string prefix;

  static const OpSpec& of(const Op* op) { return static_cast<const Operator*>(op)->spec; }

  Operator(OpSpec s, Work w, const void* const* t)
      : Op{}, spec(std::move(s)), work(w), table(t), prefix(label(spec.name, "")) {
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
      return guarded(instance.api, instance.label, [&] {
        instance.kernel->compute(Call(instance.api, context, instance.kernel->threads));
      });
    };
    destroy = [](void* self) { delete static_cast<Instance*>(self); };
    infer = [](const Op* op, ShapeContext* context) -> Status* {
      const Operator& self = *static_cast<const Operator*>(op);
      const Api api(self.table);
      return guarded(api, self.prefix, [&] { self.spec.infer(Inference(api, context)); });
    };
    since = [](const Op*) { return 1; };
    until = [](const Op*) { return 0x7fffffff; };
  }

  static Status* create_kernel(const Op* op, const void* const* table, const KernelInfo* info, void** out) {
    const Api api(table);
    const OpSpec& spec = of(op);
    const Work work = static_cast<const Operator*>(op)->work;
    return guarded(api, static_cast<const Operator*>(op)->prefix, [&] {
      const Node node(api, info);
      const std::string node_name = node.name();
      const Choice choice = choose_kernels(work == Work::weights ? node.integer("bits", 8) : 8);
      auto instance = std::make_unique<Instance>(Instance{api, label(spec.name, node_name), nullptr});
      try {
        instance->kernel = spec.make(node, choice.set);
      } catch (const Error& e) {
        throw Error((node_name.empty() ? "" : "node '" + node_name + "': ") + e.what());
      }
      const Kernel& made = *instance->kernel;
      const std::string by = made.by.empty() ? instructions(*choice.set, work) : made.by;
      const std::string reason = made.reason.empty() ? choice.reason : made.reason;
      note_kernel(node_name, spec.name, choice.set->name, by, reason);
      const char* verbose = std::getenv("BQC_VERBOSE");
      if (verbose && *verbose && *verbose != '0') {
        std::fprintf(stderr, "bqc: %s %s -> %s, %s (%s)\n", node_name.c_str(), spec.name, choice.set->name,
                     by.c_str(), reason.c_str());
      }
      *out = instance.release();
    });
  }
};

// The operators for one ONNX Runtime, of which a process may hold several.
struct Registration {
  const void* const* table;
  std::deque<Operator> operators = {};
  Domain* domain = nullptr;

  Status* fill() {
    const Api api(table);
    Domain* fresh = nullptr;
    if (Status* status = api.call(kCreateDomain, "ai.bqc", &fresh)) return status;
    for (const Family& family : families()) {
      for (OpSpec& spec : family.operators()) {
        operators.emplace_back(std::move(spec), family.work, table);
        const Op* op = &operators.back();
        if (Status* status = api.call(kDomainAddOp, fresh, op)) return status;
      }
    }
    domain = fresh;
    return nullptr;
  }
};

Status* add_domain(Options* options, const void* const* table) {
  static std::mutex lock;
  // Lives as long as the process: sessions keep pointers into it.
  static auto* all = new std::deque<Registration>;
  const std::lock_guard<std::mutex> held(lock);
  for (const Registration& known : *all) {
    if (known.table == table) return Api(table).call(kOptionsAddDomain, options, known.domain);
  }
  auto fresh = std::make_unique<Registration>(Registration{table});
  if (Status* status = fresh->fill()) {
    static_cast<void>(fresh.release());  // what it added may still be looked at
    return status;
  }
  return Api(table).call(kOptionsAddDomain, options, all->emplace_back(std::move(*fresh)).domain);
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
  Status* status = nullptr;
  Status* thrown = bqc::guarded(Api(table), "ai.bqc: ", [&] { status = bqc::add_domain(options, table); });
  return thrown ? thrown : status;
}
