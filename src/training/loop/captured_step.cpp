#include "training/loop/captured_step.h"

#include <typeinfo>
#include <utility>

#include <diffusers/training/diffusion_task.h>

#include "core/require.h"
#include "data/batch_fields.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Returns the name of a field that a captured pass does not get; empty if there is none. The loader sets
/// `indices`, which the loss does not read.
std::string foreign_field(const Batch& batch) {
  Batch rest = batch;
  rest.images = rest.class_labels = rest.indices = Tensor();
  std::string name;
  for_each_field([&](const BatchField& about, auto member) {
    if (name.empty() && is_set(rest.*member)) name = about.name;
  });
  return name;
}

}  // namespace

std::string capture_obstacle(const Task& task, const TrainingConfig& config, std::size_t updates,
                             const Batch& batch) {
  if (typeid(task) != typeid(DiffusionTask))
    return "only DiffusionTask is known to do the same work on the device in each step";
  const DiffusionTaskOptions& options = dynamic_cast<const DiffusionTask&>(task).options();
  if (options.conditioning) return "DiffusionTaskOptions' `conditioning` may read the batch on the host";
  if (options.pyramid_noise_iterations > 0)
    return "pyramid_noise_iterations is above 0, and the host draws the sizes of that noise";
  if (options.timestep_sampling == TimestepSampling::kLossSecondMoment)
    return "timestep_sampling is \"loss_second_moment\", whose state changes in each step";
  if (updates > 1) return fmt::format("the task has {} updates, expected 1", updates);
  if (config.gradient_accumulation_steps > 1)
    return fmt::format("gradient_accumulation_steps is {}, expected 1", config.gradient_accumulation_steps);
  if (config.fused_backward_pass) return "fused_backward_pass updates the parameters in the backward pass";
  if (config.gradient_checkpointing)
    return "gradient_checkpointing saves and restores random states on the host";
  const std::string field = foreign_field(batch);
  if (!field.empty()) return fmt::format("the batch has {}, expected images and class_labels alone", field);
  return {};
}

CapturedStep::CapturedStep(std::vector<Tensor> parameters, const Generator& generator,
                           std::unique_ptr<GraphBackend> backend)
    : parameters_(std::move(parameters)), graph_(kCapturedStepName, std::move(backend), {generator}) {}

StepResult CapturedStep::run(const Batch& batch, const Pass& pass) {
  std::vector<Tensor> gradients;
  const auto run_pass = [&](const std::vector<Tensor>& inputs) {
    // A capture that failed may have left some.
    for (const Tensor& parameter : parameters_) parameter.mutable_grad() = Tensor();
    Batch given;
    given.images = inputs[0];
    given.class_labels = inputs[1];
    const StepResult result = pass(given);
    names_.clear();
    std::vector<Tensor> tensors{result.loss};
    for (const NamedValue& value : result.values) {
      names_.push_back(value.name);
      tensors.push_back(value.value);
    }
    gradients.clear();
    for (const Tensor& parameter : parameters_) gradients.push_back(parameter.grad());
    return tensors;
  };
  const std::vector<Tensor> outputs = graph_.run({batch.images, batch.class_labels}, run_pass);
  if (graph_.was_replayed()) {
    if (!gradients.empty()) gradients_ = std::move(gradients);  // this run captured the pass
    for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients_[i];
  }
  StepResult result{outputs[0], {}};
  for (std::size_t i = 0; i < names_.size(); ++i) result.values.push_back({names_[i], outputs[i + 1]});
  return result;
}

}  // namespace internal
}  // namespace diffusers
