#include "training/loop/nonfinite_probe.h"

#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace diffusers {
inline namespace internal {
namespace {

/// Callbacks are plain functions and find the probe among the debug information of their thread, which owns
/// it too. LibTorch copies both to the threads that continue a computation; other threads are not watched.
struct Probe : c10::DebugInfoBase {
  std::mutex mutex;  // parts of a batch may be computed at the same time
  std::unordered_map<const c10::TensorImpl*, std::string> modules;  // by their parameters
  std::unordered_map<std::thread::id, std::string> last_modules;
  std::optional<std::string> found;
};

// LibTorch itself uses this kind only in its own tests.
constexpr c10::DebugInfoKind kProbeKind = c10::DebugInfoKind::TEST_INFO_2;

Probe* current_probe() { return dynamic_cast<Probe*>(c10::ThreadLocalDebugInfo::get(kProbeKind)); }

/// "conv_in" of "conv_in.weight".
std::string module_of(const std::string& parameter) {
  const std::size_t dot = parameter.rfind('.');
  return dot == std::string::npos ? "the model" : parameter.substr(0, dot);
}

template <class F>
void for_each_tensor(const c10::IValue& value, F f) {
  if (value.isTensor()) {
    f(value.toTensor());
  } else if (value.isTensorList()) {
    for (const Tensor& tensor : value.toTensorVector()) f(tensor);
  }
}

bool is_finite(const Tensor& tensor) {
  if (!tensor.defined() || !at::isFloatingType(tensor.scalar_type()) || tensor.numel() == 0) return true;
  return tensor.isfinite().all().item<bool>();
}

/// Memory that nothing was written to yet holds anything.
bool is_uninitialized(std::string_view operation) {
  return operation.find("empty") != std::string_view::npos ||
         operation.find("resize_") != std::string_view::npos;
}

std::unique_ptr<at::ObserverContext> note_inputs(const at::RecordFunction& function) {
  Probe* probe = current_probe();
  if (probe == nullptr) return nullptr;
  const std::lock_guard<std::mutex> lock(probe->mutex);
  for (const c10::IValue& input : function.inputs()) {
    for_each_tensor(input, [probe](const Tensor& tensor) {
      if (!tensor.defined()) return;
      const auto module = probe->modules.find(tensor.unsafeGetTensorImpl());
      if (module != probe->modules.end()) probe->last_modules[std::this_thread::get_id()] = module->second;
    });
  }
  return nullptr;
}

void check_outputs(const at::RecordFunction& function, at::ObserverContext*) {
  Probe* probe = current_probe();
  if (probe == nullptr) return;
  const at::RecordFunctionGuard not_watched(/*is_enabled=*/false);
  const std::lock_guard<std::mutex> lock(probe->mutex);
  if (probe->found || is_uninitialized(function.name())) return;
  for (const c10::IValue& output : function.outputs()) {
    for_each_tensor(output, [&](const Tensor& tensor) {
      if (probe->found || is_finite(tensor)) return;
      const auto last = probe->last_modules.find(std::this_thread::get_id());
      const std::string where =
          last == probe->last_modules.end() ? "what comes before the first module" : last->second;
      probe->found = where + " (" + function.name() + ")";
    });
  }
}

/// Watches the operations of this thread, and of threads that take over its state, until the scope ends.
class WatchScope {
 public:
  explicit WatchScope(std::shared_ptr<Probe> probe)
      : info_(kProbeKind, std::move(probe)),
        handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(note_inputs, check_outputs)
                                               .needsInputs(true)
                                               .needsOutputs(true)
                                               .scopes({at::RecordScope::FUNCTION}))) {}
  WatchScope(const WatchScope&) = delete;
  WatchScope& operator=(const WatchScope&) = delete;
  ~WatchScope() { at::removeCallback(handle_); }

 private:
  c10::DebugInfoGuard info_;
  at::CallbackHandle handle_;
};

}  // namespace

std::optional<std::string> find_nonfinite_output(const NamedTensors& parameters,
                                                 const std::function<void()>& forward) {
  const auto probe = std::make_shared<Probe>();
  for (const auto& [name, tensor] : parameters)
    probe->modules.emplace(tensor.unsafeGetTensorImpl(), module_of(name));
  {
    const WatchScope watch(probe);
    const at::NoGradGuard no_grad;
    forward();
  }
  const std::lock_guard<std::mutex> lock(probe->mutex);
  return probe->found;
}

std::optional<std::string> find_nonfinite(const NamedTensors& tensors) {
  const at::NoGradGuard no_grad;
  for (const auto& entry : tensors)
    if (!is_finite(entry.second)) return entry.first;
  return std::nullopt;
}

}  // namespace internal
}  // namespace diffusers
