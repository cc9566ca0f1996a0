#include <algorithm>
#include <numeric>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <c10/util/Type.h>

#include "core/require.h"
#include "data/read_batch.h"
#include "training/loop/autocast.h"
#include "training/loop/training_run.h"

namespace diffusers {
inline namespace internal {
namespace {

// Any number: each validation draws the same noise.
constexpr uint64_t kValidationSeed = 0x76616c6964;

/// One place in the noise schedule for each of `count` examples, evenly spread and in no order that an
/// example could know.
Tensor fixed_positions(int64_t count) {
  const Generator generator = make_generator(kValidationSeed);
  const Tensor order = at::randperm(count, generator, at::TensorOptions().dtype(at::kLong));
  return (order.to(at::kDouble) + 0.5) / static_cast<double>(count);
}

/// Returns the first `count` samples in batches of one bucket each.
std::vector<std::vector<int64_t>> validation_batches(const Dataset& dataset, int64_t count,
                                                     int64_t batch_size) {
  std::vector<int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  const std::vector<int64_t> buckets = dataset.buckets();
  const auto bucket_of = [&](int64_t index) {
    return buckets.empty() ? 0 : buckets[static_cast<std::size_t>(index)];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return bucket_of(a) < bucket_of(b); });
  std::vector<std::vector<int64_t>> batches;
  for (const int64_t index : order) {
    const bool is_open = !batches.empty() && static_cast<int64_t>(batches.back().size()) < batch_size &&
                         bucket_of(batches.back().front()) == bucket_of(index);
    if (!is_open) batches.emplace_back();
    batches.back().push_back(index);
  }
  return batches;
}

/// Adds the named values of a batch to the sums over all samples, which stay on the device.
void add_to_sums(const std::vector<NamedValue>& values, int64_t batch_size, std::vector<NamedValue>& sums) {
  const bool is_first = sums.empty();
  require<TensorError>(is_first || values.size() == sums.size(),
                       "the task's validation has {} named values, expected {} as for the batch before",
                       values.size(), sums.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto& [name, value] = values[i];
    require<TensorError>(
        value.defined() && (value.dim() == 0 || (value.dim() == 1 && value.size(0) == batch_size)),
        "the value \"{}\" of the task's validation is {}, expected 0-dim or one value for each of {} samples",
        name, describe(value), batch_size);
    const Tensor wide = value.detach().to(at::kDouble);
    const Tensor sum = wide.dim() == 0 ? wide * batch_size : wide.sum();
    if (is_first) {
      sums.push_back({name, sum});
    } else {
      require<TensorError>(
          name == sums[i].name,
          "the task's validation has the value \"{}\", expected \"{}\" as for the batch before", name,
          sums[i].name);
      sums[i].value = sums[i].value + sum;
    }
  }
}

/// Reads the means of the sums from the device.
std::vector<LoggedValue> means_of(const std::vector<NamedValue>& sums, int64_t count) {
  std::vector<LoggedValue> means;
  if (sums.empty()) return means;
  std::vector<Tensor> tensors;
  for (const NamedValue& sum : sums) tensors.push_back(sum.value);
  const Tensor on_host = (at::stack(tensors) / static_cast<double>(count)).to(at::kCPU);
  for (std::size_t i = 0; i < sums.size(); ++i)
    means.emplace_back(sums[i].name, on_host.const_data_ptr<double>()[i]);
  return means;
}

}  // namespace

/// Nothing that was given for the validation may be ignored.
void TrainingRun::check_validation() const {
  if (validation_ != nullptr) {
    require<ConfigError>(task_.has_validation(),
                         "held-out data is given, but the task {} has no validation loss; override "
                         "has_validation and validation_loss in the task, or call train(data)",
                         c10::demangle(typeid(task_).name()));
    require<ConfigError>(validation_->size() > 0, "the validation dataset is empty");
    return;
  }
  require<ConfigError>(config_.validation_steps == 0 || trainer_.on_preview_,
                       "validation_steps is {}, but there is neither held-out data nor a preview callback; "
                       "call train(data, held_out) or on_preview(callback), or leave it at its default, 0",
                       config_.validation_steps);
  require<ConfigError>(!trainer_.on_validation_,
                       "on_validation has a callback, but there is no held-out data; call "
                       "train(data, held_out)");
  const auto needs_data = [](const char* key, int64_t value, int64_t default_value) {
    require<ConfigError>(value == default_value,
                         "{} is {}, but has an effect only with held-out data; call train(data, held_out), "
                         "or leave it at its default, {}",
                         key, value, default_value);
  };
  const TrainingConfig defaults;
  needs_data("validation_samples", config_.validation_samples, defaults.validation_samples);
  needs_data("validation_bins", config_.validation_bins, defaults.validation_bins);
}

/// Validates and draws previews, with the whole average on rank 0.
void TrainingRun::evaluate() {
  gather_average((validation_ != nullptr && last_validation_step_ != global_step_) ||
                 (trainer_.on_preview_ && last_preview_step_ != global_step_));
  validate();
  preview();
  if (trainer_.ema_) trainer_.ema_->release_whole();
}

void TrainingRun::validate() {
  if (validation_ == nullptr || last_validation_step_ == global_step_ || !process_group_.is_main()) return;
  const EvaluationScope evaluation(task_, device_, averaged_, trainer_.ema_.get());
  const int64_t count = std::min(config_.validation_samples, validation_->size());
  const Tensor all_positions = fixed_positions(count);
  const Generator generator = make_device_generator(device_, kValidationSeed);

  std::vector<Tensor> losses;
  std::vector<NamedValue> value_sums;
  std::vector<Tensor> read_positions;
  for (const std::vector<int64_t>& indices :
       validation_batches(*validation_, count, config_.train_batch_size)) {
    if (must_stop()) return;
    const auto size = static_cast<int64_t>(indices.size());
    const Batch on_host = read_batch(*validation_, indices);
    require<ConfigError>(on_host.size() == size,
                         "the validation dataset gives {} rows for {} samples, since it has class images "
                         "(Batch::is_prior); expected one row for each sample",
                         on_host.size(), size);
    read_positions.push_back(all_positions.index_select(0, on_host.indices));
    task_.check_batch(on_host);
    const Batch batch = to_device(on_host);
    const Autocast autocast(device_.type(), config_.mixed_precision);
    const StepLoss validation = task_.validate(batch, read_positions.back(), generator);
    const Tensor& loss = validation.loss;
    require<TensorError>(loss.defined() && loss.dim() == 1 && loss.size(0) == size,
                         "the task's validation loss is {}, expected one value for each of {} samples",
                         describe(loss), size);
    losses.push_back(loss.to(at::kCPU, at::kDouble));
    add_to_sums(validation.values, size, value_sums);
  }

  const Tensor all = at::cat(losses);
  const Tensor positions = at::cat(read_positions);
  const Tensor bins = (positions * static_cast<double>(config_.validation_bins)).floor().to(at::kLong);
  const Tensor sums = at::zeros({config_.validation_bins}, at::kDouble).index_add_(0, bins, all);
  const Tensor counts = at::bincount(bins, {}, config_.validation_bins);
  // NaN where fewer examples than bins leave one empty.
  const Tensor means = sums / counts;
  ValidationResult result;
  result.step = global_step_;
  result.loss = all.mean().item<double>();
  result.bin_losses.assign(means.const_data_ptr<double>(), means.const_data_ptr<double>() + means.numel());
  result.values = means_of(value_sums, count);
  last_validation_step_ = global_step_;
  log_validation(result);
}

}  // namespace internal
}  // namespace diffusers
