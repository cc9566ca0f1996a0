#include <algorithm>
#include <mutex>
#include <optional>
#include <utility>

#include <diffusers/models/gradient_checkpointing.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch/autograd.h>
#include <torch/types.h>

#include "core/require.h"
#include "models/layers/autocast_scope.h"
#include "models/layers/lora_layer.h"

namespace diffusers {
namespace {

using CheckpointBody = std::function<Tensor(const std::vector<Tensor>&)>;

/// State of the global generators from which a body on `device` draws.
class GeneratorStates {
 public:
  explicit GeneratorStates(at::Device device) {
    generators_.push_back(at::detail::getDefaultCPUGenerator());
    if (!device.is_cpu()) generators_.push_back(at::globalContext().defaultGenerator(device));
    for (auto& generator : generators_) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      states_.push_back(generator.get_state());
    }
  }
  void restore() {
    for (std::size_t i = 0; i < generators_.size(); ++i) {
      const std::lock_guard<std::mutex> lock(generators_[i].mutex());
      generators_[i].set_state(states_[i]);
    }
  }

 private:
  std::vector<at::Generator> generators_;
  std::vector<Tensor> states_;
};

/// Data of the backward pass besides the tensors.
struct Recomputation : torch::CustomClassHolder {
  CheckpointBody body;
  std::size_t input_count = 0;
  std::optional<GeneratorStates> generators;
  AutocastState autocast;
};

struct CheckpointFunction : torch::autograd::Function<CheckpointFunction> {
  static Tensor forward(torch::autograd::AutogradContext* context,
                        const c10::intrusive_ptr<Recomputation>& recomputation,
                        at::TensorList inputs_and_parameters) {
    context->saved_data["recomputation"] = c10::IValue::make_capsule(recomputation);
    context->save_for_backward(inputs_and_parameters.vec());
    const auto count = static_cast<std::ptrdiff_t>(recomputation->input_count);
    const AutocastScope autocast(recomputation->autocast);
    return recomputation->body({inputs_and_parameters.begin(), inputs_and_parameters.begin() + count});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    require<Error>(!at::GradMode::is_enabled(),
                   "a gradient of a gradient was asked for, which gradient checkpointing cannot give");
    const auto capsule = context->saved_data["recomputation"].toCapsule();
    auto& recomputation = static_cast<Recomputation&>(*capsule);
    auto tensors = context->get_saved_variables();

    std::vector<Tensor> inputs;
    for (std::size_t i = 0; i < recomputation.input_count; ++i) {
      tensors[i] = tensors[i].detach().requires_grad_(context->needs_input_grad(i));
      inputs.push_back(tensors[i]);
    }
    Tensor output;
    {
      const torch::AutoGradMode with_grad(true);
      const AutocastScope autocast(recomputation.autocast);
      std::optional<GeneratorStates> now;
      if (recomputation.generators) {
        now.emplace(grad_outputs[0].device());
        recomputation.generators->restore();
      }
      output = recomputation.body(inputs);
      if (now) now->restore();
    }

    std::vector<Tensor> wanted;
    std::vector<std::size_t> positions;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (!tensors[i].requires_grad()) continue;
      wanted.push_back(tensors[i]);
      positions.push_back(i);
    }
    // One gradient for each argument of forward. The first argument, the recomputation, has no gradient.
    torch::autograd::variable_list gradients(tensors.size() + 1);
    const auto found = torch::autograd::grad({output}, wanted, {grad_outputs[0]}, /*retain_graph=*/false,
                                             /*create_graph=*/false, /*allow_unused=*/true);
    for (std::size_t i = 0; i < found.size(); ++i) gradients[positions[i] + 1] = found[i];
    return gradients;
  }
};

}  // namespace

Tensor checkpoint(CheckpointBody body, const std::vector<Tensor>& inputs, const torch::nn::Module& owner,
                  bool uses_random) {
  require<TensorError>(
      !inputs.empty() &&
          std::all_of(inputs.begin(), inputs.end(), [](const Tensor& tensor) { return tensor.defined(); }),
      "checkpoint: expected at least one input and none undefined, got {} inputs", inputs.size());
  const auto parameters = owner.parameters();
  const auto needs_grad = [](const std::vector<Tensor>& tensors) {
    return std::any_of(tensors.begin(), tensors.end(),
                       [](const Tensor& tensor) { return tensor.requires_grad(); });
  };
  if (!at::GradMode::is_enabled() || !(needs_grad(inputs) || needs_grad(parameters))) return body(inputs);

  const auto device = inputs.at(0).device();
  auto recomputation = c10::make_intrusive<Recomputation>();
  recomputation->body = std::move(body);
  recomputation->input_count = inputs.size();
  if (uses_random || lora_draws_random_numbers(owner)) recomputation->generators.emplace(device);
  recomputation->autocast = AutocastState::current(device.type());

  auto tensors = inputs;
  tensors.insert(tensors.end(), parameters.begin(), parameters.end());
  return CheckpointFunction::apply(recomputation, at::TensorList(tensors));
}

}  // namespace diffusers
