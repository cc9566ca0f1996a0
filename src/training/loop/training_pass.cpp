// The forward and backward pass of a step of a TrainingRun, and the place and order of its tensors in memory.

#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/error.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "training/loop/autocast.h"
#include "training/loop/channels_last.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Returns the named values of a batch as shares of the step's means.
/// @param over_step the share of a value
template <class F>
std::vector<NamedValue> step_values(const std::vector<NamedValue>& batch_values, F over_step) {
  std::vector<NamedValue> shares;
  for (const auto& [name, value] : batch_values) {
    require<TensorError>(value.defined() && value.dim() <= 1,
                         "the value \"{}\" of the task's loss is {}, expected 0-dim or [B]", name,
                         describe(value));
    shares.push_back({name, over_step(value.detach())});
  }
  return shares;
}

/// Adds the shares of a batch to those of the step.
void add_values(const std::vector<NamedValue>& shares, std::vector<NamedValue>& step_values) {
  const bool is_first = step_values.empty();
  require<TensorError>(is_first || shares.size() == step_values.size(),
                       "the task's loss has {} named values, expected {} as for the batch before",
                       shares.size(), step_values.size());
  for (std::size_t i = 0; i < shares.size(); ++i) {
    const auto& [name, share] = shares[i];
    if (is_first) {
      step_values.push_back({name, share});
    } else {
      require<TensorError>(name == step_values[i].name,
                           "the task's loss has the value \"{}\", expected \"{}\" as for the batch before",
                           name, step_values[i].name);
      step_values[i].value = step_values[i].value + share;
    }
  }
}

}  // namespace

Batch TrainingRun::to_device(const Batch& batch) const {
  require_floating_images(batch.images);
  return copies_.to_device(batch, dtype_);
}

/// With CudaOptions::channels_last, before the average and the optimizer copy the order of the weights.
void TrainingRun::order_weights() {
  if (!device_.is_cuda() || !cuda_options().channels_last) return;
  for (const NamedModule& named : task_.trained()) to_channels_last(named.module->module());
  for (const NamedModule& named : task_.frozen())
    if (named.module != nullptr) to_channels_last(named.module->module());
}

/// At the first step, makes a captured step if CudaOptions::graphs asks for one and nothing speaks against
/// it.
void TrainingRun::prepare_capture(const Batch& first) {
  if (std::exchange(has_prepared_capture_, true) || !device_.is_cuda() || !cuda_options().graphs) return;
  const std::string obstacle =
      reducers_.empty() ? capture_obstacle(task_, config_, updates_.size(), first)
                        : "the processes of a group exchange the gradients during the backward pass";
  if (!obstacle.empty()) return warn_of_no_graph(kCapturedStepName, obstacle);
  captured_step_.emplace(updates_.front().parameters(), generator_, make_cuda_graph_backend());
}

TrainingRun::Backward TrainingRun::backward(const Group& group, std::size_t update) {
  const auto options = at::TensorOptions().dtype(dtype_).device(device_);
  const auto samples = static_cast<double>(group.samples);
  Backward result{at::zeros({}, options), {}};
  prepare_capture(group.batches.front());
  for (const Batch& host_batch : group.batches) {
    // The last batch of a step exchanges the gradients of all its batches.
    const bool is_last = &host_batch == &group.batches.back();
    if (host_batch.size() == 0) {
      if (is_last || reducers_[update]->exchanges_each_loss())
        add_gradients(reducers_[update]->zero_loss(), update, is_last);
      continue;
    }
    const Batch batch = to_device(host_batch);
    const auto pass = [&](const Batch& given) { return backward_of(given, samples, update, is_last); };
    const StepResult of_batch = captured_step_ ? captured_step_->run(batch, pass) : pass(batch);
    result.loss += of_batch.loss;
    add_values(of_batch.values, result.values);
  }
  process_group_.all_reduce(result.loss);
  return result;
}

/// @param is_last true for the last batch of the step
void TrainingRun::add_gradients(const Tensor& loss, std::size_t update, bool is_last) {
  if (reducers_.empty()) {
    updates_[update].backward(loss, global_step_);
  } else {
    reducers_[update]->backward(updates_[update].scaled(loss), is_last);
  }
}

/// The forward and backward pass of one batch.
/// @param samples of the whole step
/// @param is_last true for the last batch of the step
StepResult TrainingRun::backward_of(const Batch& batch, double samples, std::size_t update, bool is_last) {
  const int64_t batch_size = batch.size();
  StepLoss step_loss = [&] {
    const Autocast autocast(device_.type(), config_.mixed_precision);
    return task_.loss(batch, update);
  }();
  const Tensor& losses = step_loss.loss;
  require<TensorError>(
      losses.defined() && (losses.dim() == 0 || (losses.dim() == 1 && losses.size(0) == batch_size)),
      "the task's loss is {}, expected one value for each of {} samples, or 0-dim", describe(losses),
      batch_size);
  require<ConfigError>(losses.requires_grad(),
                       "the task's loss depends on none of the {} parameters that are trained",
                       updates_[update].parameters().size());
  // Divided by the samples of the whole step: small batches then add up to the large one, a short last one
  // included.
  const auto over_step = [&](const Tensor& each) {
    return each.dim() == 0 ? each * (static_cast<double>(batch_size) / samples) : each.sum() / samples;
  };
  const Tensor loss = over_step(losses);
  add_gradients(loss, update, is_last);
  return {loss.detach(), step_values(step_loss.values, over_step)};
}

}  // namespace internal
}  // namespace diffusers
