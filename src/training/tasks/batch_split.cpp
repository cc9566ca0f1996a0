#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <diffusers/training/batch_split.h>

#include <ATen/ATen.h>
#include <ATen/ThreadLocalState.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/parallel.h"
#include "core/require.h"
#include "models/conditioning_fields.h"
#include "models/layers/autocast_scope.h"

namespace diffusers {
namespace {

/// The graphs of the parts, from the forward to the backward pass.
struct Parts : torch::CustomClassHolder {
  Denoiser denoise;
  std::vector<Tensor> samples, timesteps;   // of each part
  std::vector<Conditioning> conditionings;  // of each part
  std::vector<Tensor> outputs;              // each with its own graph
  AutocastState autocast;
};

void compute_part(Parts& parts, std::size_t i) {
  const at::AutoGradMode with_grad(true);
  const AutocastScope autocast(parts.autocast);
  parts.outputs[i] = parts.denoise(parts.samples[i], parts.timesteps[i], parts.conditionings[i]);
}

template <class F>
void for_each_part(std::size_t count, F f) {
  // LibTorch's threads do not inherit the thread-local state of the calling thread, such as observers of
  // operations.
  const at::ThreadLocalState caller;
  // In this region, LibTorch runs each operation on the calling thread.
  parallel_for(0, static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard state(caller);
    for (int64_t i = begin; i < end; ++i) f(static_cast<std::size_t>(i));
  });
}

/// Returns true if the inputs need a gradient, as for a text encoder that is also trained.
bool needs_gradient(const Tensor& sample, const Conditioning& conditioning) {
  bool found = sample.requires_grad();
  for_each_conditioning_tensor(conditioning, [&](const char*, const Tensor& tensor) {
    found = found || (tensor.defined() && tensor.requires_grad());
  });
  return found;
}

struct PartsFunction : torch::autograd::Function<PartsFunction> {
  /// @param parameters leaves of the graph; the graphs of the parts also refer to them
  static Tensor forward(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<Parts>& parts,
                        at::TensorList parameters) {
    context->saved_data["parts"] = c10::IValue::make_capsule(parts);
    context->save_for_backward(parameters.vec());
    for_each_part(parts->samples.size(), [&](std::size_t i) { compute_part(*parts, i); });
    std::vector<Tensor> outputs;
    for (const Tensor& output : parts->outputs) outputs.push_back(output.detach());
    return at::cat(outputs);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    require<Error>(!at::GradMode::is_enabled(),
                   "cpu_data_parallel does not support a gradient of a gradient; set it to 1");
    const auto capsule = context->saved_data["parts"].toCapsule();
    auto& parts = static_cast<Parts&>(*capsule);
    const auto parameters = context->get_saved_variables();

    std::vector<Tensor> grads;
    int64_t first = 0;
    for (const Tensor& output : parts.outputs) {
      grads.push_back(grad_outputs[0].narrow(0, first, output.size(0)));
      first += output.size(0);
    }
    std::vector<torch::autograd::variable_list> found(parts.outputs.size());
    for_each_part(found.size(), [&](std::size_t i) {
      found[i] = torch::autograd::grad({parts.outputs[i]}, parameters, {grads[i]}, /*retain_graph=*/false,
                                       /*create_graph=*/false, /*allow_unused=*/true);
      parts.outputs[i].reset();
    });

    // One gradient for each argument of forward. The parts have none.
    torch::autograd::variable_list sums(parameters.size() + 1);
    for (std::size_t p = 0; p < parameters.size(); ++p) {
      for (const auto& part : found) {
        if (!part[p].defined()) continue;
        sums[p + 1] = sums[p + 1].defined() ? sums[p + 1] + part[p] : part[p];
      }
    }
    return sums;
  }
};

}  // namespace

Tensor predict_in_parts(const TrainableDenoiser& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts) {
  require<ConfigError>(parts > 0, "cpu_data_parallel is {}, expected a positive number", parts);
  const int64_t batch_size = sample.defined() && sample.dim() > 0 ? sample.size(0) : 0;
  std::vector<Tensor> parameters;
  if (at::GradMode::is_enabled() && parts > 1 && batch_size > 1 && !needs_gradient(sample, conditioning))
    for (const Tensor& parameter : model.saved->module().parameters())
      if (parameter.requires_grad()) parameters.push_back(parameter);
  if (parameters.empty()) return model.denoise(sample, timesteps, conditioning);
  require<TensorError>(sample.is_cpu(), "cpu_data_parallel is {}, but the sample is {}", parts,
                       describe(sample));

  auto state = c10::make_intrusive<Parts>();
  state->denoise = model.denoise;
  const int64_t size = (batch_size + parts - 1) / parts;
  state->samples = sample.split(size);
  state->timesteps = timesteps.split(size);
  for (int64_t first = 0; first < batch_size; first += size)
    state->conditionings.push_back(conditioning.slice(first, std::min(first + size, batch_size)));
  state->outputs.resize(state->samples.size());
  state->autocast = AutocastState::current(at::kCPU);
  return PartsFunction::apply(state, at::TensorList(parameters));
}

}  // namespace diffusers
