#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "core/parallel.h"
#include "core/require.h"
#include "io/staged_folder.h"
#include "training/checkpoint/output_folder.h"
#include "training/loop/autocast.h"
#include "training/loop/deterministic_scope.h"
#include "training/loop/trained_parameters.h"
#include "training/loop/trainer_data.h"
#include "training/loop/training_run.h"
#include "training/loop/update_options.h"

namespace diffusers {
namespace {

/// After freezing, so that what is frozen is not trained.
std::vector<Tensor> all_parameters(const Task& task, const TrainingConfig& config) {
  apply_freezing(named_parameters(task), config);
  std::vector<Tensor> parameters;
  for (const NamedModule& named : task.trained())
    for (const Tensor& parameter : named.module->module().parameters()) parameters.push_back(parameter);
  return parameters;
}

TensorMap averaged_parameters(const Task& task) {
  TensorMap averaged;
  for (const NamedModule& named : task.trained())
    if (named.is_averaged)
      for (const auto& [name, parameter] : named_parameters(task, {named.name}))
        averaged.insert(name, parameter);
  return averaged;
}

std::vector<Tensor> tensors_of(const TensorMap& map) {
  std::vector<Tensor> tensors;
  for (const auto& entry : map) tensors.push_back(entry.second);
  return tensors;
}

std::vector<Tensor> requiring_gradient(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> trainable;
  std::copy_if(parameters.begin(), parameters.end(), std::back_inserter(trainable),
               [](const Tensor& parameter) { return parameter.requires_grad(); });
  require_trainable(trainable, parameters.size());
  return trainable;
}

/// Adds the named values of a batch to those of the step.
/// @param over_step the share of a value in the step's mean
template <class F>
void add_values(const std::vector<NamedValue>& batch_values, F over_step,
                std::vector<NamedValue>& step_values) {
  const bool is_first = step_values.empty();
  require<TensorError>(is_first || batch_values.size() == step_values.size(),
                       "the task's loss has {} named values, expected {} as for the batch before",
                       batch_values.size(), step_values.size());
  for (std::size_t i = 0; i < batch_values.size(); ++i) {
    const auto& [name, value] = batch_values[i];
    require<TensorError>(value.defined() && value.dim() <= 1,
                         "the value \"{}\" of the task's loss is {}, expected 0-dim or [B]", name,
                         describe(value));
    const Tensor share = over_step(value.detach());
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

AveragedWeights::AveragedWeights(const std::vector<Tensor>& parameters, const TrainingAverage* ema) {
  if (ema == nullptr) return;
  parameters_ = parameters;
  const std::vector<Tensor> averages = ema->tensors();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    weights_.push_back(parameters_[i].detach());
    parameters_[i].set_data(averages[i]);
  }
}

AveragedWeights::~AveragedWeights() {
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_data(weights_[i]);
}

Trainer::Trainer(std::shared_ptr<Task> task, TrainingConfig config)
    : task_(std::move(task)), config_(std::move(config)) {
  require<ConfigError>(task_ != nullptr, "Trainer: there is no task");
  config_.validate();
  task_->configure(config_);
  check_trained_parameters(*task_, config_);
  require_options_of_updates(*task_, config_);
}

const EMAModel* Trainer::ema() const { return ema_ ? ema_->ema_model() : nullptr; }
const LitEma* Trainer::lit_ema() const { return ema_ ? ema_->lit_ema() : nullptr; }

TrainingResult Trainer::train(const Dataset& dataset) {
  return train_and_validate(TrainerData(dataset), nullptr);
}

TrainingResult Trainer::train(const Dataset& dataset, const Dataset& validation) {
  return train_and_validate(TrainerData(dataset), &validation);
}

TrainingResult Trainer::train(const IterableDataset& dataset) {
  return train_and_validate(TrainerData(dataset), nullptr);
}

TrainingResult Trainer::train(const IterableDataset& dataset, const Dataset& validation) {
  return train_and_validate(TrainerData(dataset), &validation);
}

TrainingResult Trainer::train_and_validate(const TrainerData& data, const Dataset* validation) {
  stop_requested_ = false;
  try {
    return TrainingRun(*this, data, validation).run();
  } catch (const c10::Error& error) {
    throw Error(error.what_without_backtrace());
  }
}

TrainingRun::TrainingRun(Trainer& trainer, const TrainerData& data, const Dataset* validation)
    : trainer_(trainer),
      config_(trainer.config_),
      task_(*trainer.task_),
      parameters_(all_parameters(task_, config_)),
      averaged_(tensors_of(averaged_parameters(task_))),
      trainable_(requiring_gradient(parameters_)),
      device_(trainable_.front().device()),
      dtype_(trainable_.front().scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
      data_(data),
      validation_(validation) {
  check_validation();
  check_batch_parts();
  data_.check(task_);
  if (validation_ != nullptr) task_.check_dataset(*validation_);
  total_steps_ = data_.total_steps(config_);
  for (Update& update : checked_updates(task_, config_))
    updates_.emplace_back(task_, config_, std::move(update), total_steps_, device_, dtype_);
  trainer_.optimizers_.clear();
  for (const UpdateRun& update : updates_) trainer_.optimizers_.push_back(update.optimizer());
  trainer_.ema_ =
      config_.use_ema ? std::make_shared<TrainingAverage>(averaged_parameters(task_), config_) : nullptr;

  if (!config_.post_hoc_ema_sigma_rels.empty())
    for (const NamedModule& named : task_.trained()) {
      if (!named.is_averaged) continue;
      const TensorMap parameters(named.module->module().named_parameters());
      // train_only and freeze may leave a whole model as it is.
      if (std::none_of(parameters.begin(), parameters.end(),
                       [](const auto& entry) { return entry.second.requires_grad(); }))
        continue;
      power_averages_.push_back(
          {named.name, parameters, PostHocEma(parameters, {.sigma_rels = config_.post_hoc_ema_sigma_rels})});
    }
}

TrainingResult TrainingRun::run() {
  create_folders(config_.output_dir);
  lock_.emplace(config_.output_dir, "output_dir", "training");
  remove_unfinished_folders(config_.output_dir);
  remove_temporary_files(config_.output_dir);
  if (!resume()) start_fresh();
  first_step_ = global_step_;
  metrics_ = std::make_unique<MetricsLog>(config_.output_dir, global_step_);
  display_ = std::make_unique<ProgressDisplay>(config_.progress_bar, total_steps_);
  open_tensorboard();
  // So that "latest" finds it, whatever happens before the next one is due.
  if (is_from_elsewhere_) save_checkpoint();

  const at::AutoGradMode with_grad(true);  // also within a preview of another training
  const DeterministicScope deterministic(config_.deterministic);
  signals_.emplace(config_.handle_signals);
  freeze_modules();
  begin_train_mode(task_);
  for (UpdateRun& update : updates_) update.settle(global_step_);
  warn_of_slow_training(device_, config_);
  while (global_step_ < total_steps_ && !must_stop()) {
    const double start = now_seconds();
    train_step();
    training_seconds_ += now_seconds() - start;
    display_->step_done(global_step_);
    if (trainer_.on_step_) trainer_.on_step_(global_step_);
    if (global_step_ % config_.logging_steps == 0 || global_step_ == total_steps_) log();
    if (config_.validation_steps > 0 && global_step_ % config_.validation_steps == 0) {
      validate();
      preview();
    }
    if (global_step_ % config_.post_hoc_ema_steps == 0) save_power_ema();
    if (config_.checkpointing_steps > 0 && global_step_ % config_.checkpointing_steps == 0) save_checkpoint();
  }

  TrainingResult result;
  result.is_complete = global_step_ >= total_steps_;
  if (result.is_complete) {
    finish();
  } else {
    save_checkpoint();
    checkpoint_writer_.wait();
    display_->message(fmt::format("stopped at step {}; resume_from_checkpoint \"latest\" goes on from there",
                                  global_step_));
  }
  metrics_->save_loss_chart(join_path(config_.output_dir, "loss.svg"));
  save_report();
  set_eval_mode(task_);
  for (const UpdateRun& update : updates_) update.optimizer()->zero_grad();
  result.signal = signals_->end();
  result.global_step = global_step_;
  result.epoch = epoch_;
  result.loss = last_loss_;
  result.skipped_steps = skipped_steps_;
  return result;
}

void TrainingRun::start_fresh() {
  require_free_output_dir();
  if (config_.overwrite_output_dir)
    remove_earlier_training(config_.output_dir, model_names(), config_.logging_dir);
  // Below 2^63, as config files and checkpoints hold signed numbers.
  seed_ = config_.seed ? static_cast<uint64_t>(*config_.seed)
                       : ((uint64_t{std::random_device{}()} << 32) | std::random_device{}()) >> 1;
  manual_seed(seed_);
  generator_ = make_device_generator(device_, seed_);
  open_loader();
  write_file(config_.to_json(), join_path(config_.output_dir, "training_config.json"));
}

void TrainingRun::open_loader() {
  loader_.emplace(data_.loader({.batch_size = config_.train_batch_size,
                                .seed = seed_,
                                .num_workers = config_.dataloader_num_workers,
                                .pin_memory = device_.is_cuda()}));
}

void TrainingRun::train_step() {
  const double start = now_seconds();
  group_ = next_group();
  data_seconds_ += now_seconds() - start;
  generator_state_ = generator_.get_state();
  step_context_ = {.step = global_step_,
                   .samples = group_.samples,
                   .generator = generator_,
                   .cpu_data_parallel = batch_parts(group_.batches.front())};
  task_.begin_step(step_context_);
  // One copy to the device for all updates.
  if (updates_.size() > 1)
    for (Batch& batch : group_.batches) batch = to_device(batch);
  for (std::size_t i = 0; i < updates_.size(); ++i)
    if (updates_[i].runs_at(global_step_)) run_update(i);
  average();
  ++global_step_;
  if (device_.is_cpu())
    for (const UpdateRun& update : updates_) stop_if_nonfinite(update.nonfinite_in_row());
  images_since_log_ += group_.samples;
}

TrainingRun::Group TrainingRun::next_group() {
  Group group;
  while (static_cast<int64_t>(group.batches.size()) < config_.gradient_accumulation_steps) {
    std::optional<Batch> batch = loader_->next();
    // The end of an epoch ends a group, but a new group goes on with the next epoch.
    if (!batch && group.batches.empty()) batch = loader_->next();
    if (!batch) break;
    require<TensorError>(batch->images.defined() && batch->images.dim() > 0,
                         "the dataset gives a batch without images");
    require<TensorError>(batch->images.size(0) > 0,
                         "the dataset gives a batch of 0 samples, images are {}; expected 1 or more",
                         describe(batch->images));
    require_floating_images(batch->images);
    task_.check_batch(*batch);
    check_values(*batch);
    group.samples += batch->size();
    group.batches.push_back(std::move(*batch));
    epoch_ = loader_->epoch();
  }
  require(group.samples > 0, "the dataset gave no batch in epoch {}", epoch_);
  return group;
}

/// On the first batch, and as often as the first epoch is logged: a device is never asked for it later.
void TrainingRun::check_values(const Batch& batch) {
  const bool is_logged = epoch_ == 0 && (global_step_ + 1) % config_.logging_steps == 0;
  if (has_seen_data_ && !(is_logged && batch.images.is_cpu())) return;
  has_seen_data_ = true;
  if (const std::string warning = image_range_.look(batch.images); !warning.empty())
    log_message(LogLevel::kWarning, warning);
}

Batch TrainingRun::to_device(const Batch& batch) const {
  require_floating_images(batch.images);
  return batch.to(device_, dtype_);
}

/// Moves the modules that are not trained to the trained ones.
void TrainingRun::freeze_modules() {
  for (const NamedModule& named : task_.frozen()) {
    require<ConfigError>(named.module != nullptr, "the frozen module \"{}\" of the task is null", named.name);
    torch::nn::Module& module = named.module->module();
    for (const Tensor& parameter : module.parameters()) {
      const bool is_trained = std::any_of(trainable_.begin(), trainable_.end(),
                                          [&](const Tensor& trained) { return trained.is_same(parameter); });
      require<ConfigError>(!is_trained,
                           "the frozen module \"{}\" shares a parameter {} with a trained module", named.name,
                           describe(parameter));
      Tensor frozen = parameter;
      frozen.requires_grad_(false);
    }
    module.to(device_);
    module.eval();
  }
}

void TrainingRun::run_update(std::size_t index) {
  UpdateRun& update = updates_[index];
  const OnlyUpdate only(updates_, index);
  const Backward result = backward(group_, index);
  const at::NoGradGuard no_grad;
  const OneIntraopThread one_thread(batch_parts_ > 1);  // norms: the same bits for any number
  const UpdateRun::Outcome outcome = update.inspect(result.loss, result.values);
  // Reading costs nothing on the CPU; a device is asked at logging steps alone.
  if (device_.is_cpu() && nonfinite_origin_.empty() && outcome.is_nonfinite.item<double>() > 0)
    nonfinite_origin_ = nonfinite_origin(index);
  update.step(global_step_, outcome.is_skipped);
}

TrainingRun::Backward TrainingRun::backward(const Group& group, std::size_t update) {
  const auto options = at::TensorOptions().dtype(dtype_).device(device_);
  const auto samples = static_cast<double>(group.samples);
  Backward result{at::zeros({}, options), {}};
  for (const Batch& host_batch : group.batches) {
    const Batch batch = to_device(host_batch);
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
    updates_[update].backward(loss, global_step_);
    result.loss += loss.detach();
    add_values(step_loss.values, over_step, result.values);
  }
  return result;
}

void TrainingRun::average() {
  const at::NoGradGuard no_grad;
  const OneIntraopThread one_thread(batch_parts_ > 1);
  if (trainer_.ema_) trainer_.ema_->step();
  for (PowerAverage& average : power_averages_) average.ema.step(average.parameters);
}

bool TrainingRun::must_stop() const { return trainer_.stop_requested_ || signals_->received(); }

void TrainingRun::finish() {
  require_progress();
  validate();
  preview();
  if (must_stop() && (validation_ != nullptr || trainer_.on_preview_))
    display_->message(
        "a stop was requested after the last step: the model is published without the rest of "
        "the final validation and preview");
  save_power_ema();
  save_final();
}

}  // namespace diffusers
