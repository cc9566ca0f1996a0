#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/batch_split.h>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/part_threads.h"
#include "core/require.h"
#include "models/conditioning_fields.h"
#include "models/unet/row_parts.h"
#include "training/tasks/part_gradients.h"

namespace diffusers {
namespace {

/// The graphs of the parts, from the forward to the backward pass.
struct Parts : torch::CustomClassHolder {
  Denoiser denoise;
  RowParts rows;
  std::vector<Tensor> outputs;  // of each part, each with its own graph
  /// Inputs of each part that need a gradient, such as the hidden states of a text encoder that is trained.
  /// They are leaves of the part's graph. All parts list the same fields in the same order.
  std::vector<std::vector<Tensor>> leaves;
};

bool needs_gradient(const Tensor& tensor) { return tensor.defined() && tensor.requires_grad(); }

/// Calls `visit` for each input that needs a gradient: the sample, then the fields of the conditioning.
template <class Sample, class Given, class Visitor>
void for_each_input_with_gradient(Sample& sample, Given& conditioning, Visitor&& visit) {
  if (needs_gradient(sample)) visit(sample);
  for_each_conditioning_tensor(conditioning, [&](const char*, auto& tensor) {
    if (needs_gradient(tensor)) visit(tensor);
  });
}

/// Replaces the inputs of the parts that need a gradient by leaves.
void cut_graphs(Parts& parts) {
  parts.leaves.resize(parts.rows.size());
  for (std::size_t i = 0; i < parts.rows.size(); ++i)
    for_each_input_with_gradient(parts.rows.samples[i], parts.rows.conditionings[i], [&](Tensor& input) {
      input = input.detach().requires_grad_();
      parts.leaves[i].push_back(input);
    });
}

/// Calls `f(i)` for each part, one thread for a part.
template <class F>
void for_each_index(std::size_t count, F f) {
  for_each_part(static_cast<int64_t>(count), [&](int64_t i) { f(static_cast<std::size_t>(i)); });
}

/// Joins the gradients of the parts' rows of an input.
/// @param found gradients of the leaves of each part
/// @param leaf index of the input in the lists of leaves
Tensor joined_rows(const std::vector<std::vector<Tensor>>& found, const Parts& parts, std::size_t leaf) {
  std::vector<Tensor> rows;
  bool is_used = false;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Tensor& grad = found[i][leaf];
    is_used = is_used || grad.defined();
    rows.push_back(grad.defined() ? grad : at::zeros_like(parts.leaves[i][leaf]));
  }
  return is_used ? at::cat(rows) : Tensor();
}

struct PartsFunction : torch::autograd::Function<PartsFunction> {
  /// @param leaves the trained parameters, to which the graphs of the parts also refer, and then the inputs
  /// of
  ///   the whole batch that need a gradient
  static Tensor forward(torch::autograd::AutogradContext* context, const c10::intrusive_ptr<Parts>& parts,
                        at::TensorList leaves) {
    const std::size_t parameter_count = leaves.size() - parts->leaves.front().size();
    context->saved_data["parts"] = c10::IValue::make_capsule(parts);
    context->save_for_backward(leaves.slice(0, parameter_count).vec());
    {
      const at::AutoGradMode with_grad(true);
      parts->outputs = denoise_parts(parts->denoise, parts->rows);
    }
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
    const std::size_t leaf_count = parts.leaves.front().size();
    PartGradients gradients(parameters, parts.outputs.size());
    std::vector<std::vector<Tensor>> found(parts.outputs.size());
    for_each_index(found.size(), [&](std::size_t i) {
      if (parts.outputs[i].requires_grad()) {
        found[i] = gradients.backward(i, parts.outputs[i], grads[i], parts.leaves[i]);
      } else {
        gradients.skip(i);
        found[i].resize(leaf_count);
        parts.outputs[i].reset();
      }
    });

    // One gradient for each argument of forward. The parts have none.
    torch::autograd::variable_list sums(1 + parameters.size() + leaf_count);
    for (std::size_t p = 0; p < parameters.size(); ++p) sums[1 + p] = gradients.take_sum(p);
    for (std::size_t leaf = 0; leaf < leaf_count; ++leaf)
      sums[1 + parameters.size() + leaf] = joined_rows(found, parts, leaf);
    return sums;
  }
};

}  // namespace

Tensor predict_in_parts(const TrainableDenoiser& model, const Tensor& sample, const Tensor& timesteps,
                        const Conditioning& conditioning, int64_t parts) {
  require<ConfigError>(parts > 0, "cpu_data_parallel is {}, expected a positive number", parts);
  const auto whole = [&] { return model.denoise(sample, timesteps, conditioning); };
  if (!at::GradMode::is_enabled() || parts == 1) return whole();
  std::vector<Tensor> leaves;
  for (const Tensor& parameter : model.saved->module().parameters())
    if (parameter.requires_grad()) leaves.push_back(parameter);
  for_each_input_with_gradient(sample, conditioning, [&](const Tensor& input) { leaves.push_back(input); });
  if (leaves.empty()) return whole();

  auto state = c10::make_intrusive<Parts>();
  state->rows = cut_rows(sample, timesteps, conditioning, parts);
  if (state->rows.size() < 2) return whole();
  require<TensorError>(sample.is_cpu(), "cpu_data_parallel is {}, but the sample is {}", parts,
                       describe(sample));
  state->denoise = model.denoise;
  cut_graphs(*state);
  return PartsFunction::apply(state, at::TensorList(leaves));
}

}  // namespace diffusers
