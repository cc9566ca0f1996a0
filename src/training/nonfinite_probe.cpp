#include "training/nonfinite_probe.h"

#include <memory>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <ATen/record_function.h>

namespace diffusers {
namespace {

struct Probe {
  std::mutex mutex;
  std::unordered_map<const c10::TensorImpl*, std::string> modules;  // by their parameters
  std::string last_module;
  std::optional<std::string> found;
};

// RecordFunction's callbacks are plain functions; one probe runs at a time.
std::mutex g_one_probe;
Probe* g_probe = nullptr;

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
  const std::lock_guard<std::mutex> lock(g_probe->mutex);
  for (const c10::IValue& input : function.inputs()) {
    for_each_tensor(input, [](const Tensor& tensor) {
      if (!tensor.defined()) return;
      const auto module = g_probe->modules.find(tensor.unsafeGetTensorImpl());
      if (module != g_probe->modules.end()) g_probe->last_module = module->second;
    });
  }
  return nullptr;
}

void check_outputs(const at::RecordFunction& function, at::ObserverContext*) {
  const at::RecordFunctionGuard not_watched(/*is_enabled=*/false);
  const std::lock_guard<std::mutex> lock(g_probe->mutex);
  if (g_probe->found || is_uninitialized(function.name())) return;
  for (const c10::IValue& output : function.outputs()) {
    for_each_tensor(output, [&](const Tensor& tensor) {
      if (g_probe->found || is_finite(tensor)) return;
      const std::string where =
          g_probe->last_module.empty() ? "what comes before the first module" : g_probe->last_module;
      g_probe->found = where + " (" + function.name() + ")";
    });
  }
}

}  // namespace

std::optional<std::string> find_nonfinite_output(const NamedTensors& parameters,
                                                 const std::function<void()>& forward) {
  const std::lock_guard<std::mutex> lock(g_one_probe);
  Probe probe;
  for (const auto& [name, tensor] : parameters)
    probe.modules.emplace(tensor.unsafeGetTensorImpl(), module_of(name));
  g_probe = &probe;
  // Global, as parts of a batch may be computed by other threads.
  const at::CallbackHandle handle =
      at::addGlobalCallback(at::RecordFunctionCallback(note_inputs, check_outputs)
                                .needsInputs(true)
                                .needsOutputs(true)
                                .scopes({at::RecordScope::FUNCTION}));
  try {
    const at::NoGradGuard no_grad;
    forward();
  } catch (...) {
    at::removeCallback(handle);
    g_probe = nullptr;
    throw;
  }
  at::removeCallback(handle);
  g_probe = nullptr;
  return probe.found;
}

std::optional<std::string> find_nonfinite(const NamedTensors& tensors) {
  const at::NoGradGuard no_grad;
  for (const auto& entry : tensors)
    if (!is_finite(entry.second)) return entry.first;
  return std::nullopt;
}

}  // namespace diffusers
