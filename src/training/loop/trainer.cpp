#include <algorithm>
#include <cmath>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "core/require.h"
#include "training/checkpoint/output_folder.h"
#include "training/loop/autocast.h"
#include "training/loop/deterministic_scope.h"
#include "training/loop/trained_parameters.h"
#include "training/loop/training_run.h"

namespace diffusers {
namespace {

// Size of the device's learning rate table. After this number of steps without logging the host reads one
// number.
constexpr int64_t kMostUnsettledSteps = 65536;

/// After freezing, so that what is frozen is not trained.
std::vector<Tensor> all_parameters(const Task& task, const TrainingConfig& config) {
  apply_freezing(named_parameters(task), config);
  std::vector<Tensor> parameters;
  for (const TrainedModel& trained : task.models())
    for (const Tensor& parameter : trained.model->module().parameters()) parameters.push_back(parameter);
  return parameters;
}

std::vector<Tensor> requiring_gradient(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> trainable;
  std::copy_if(parameters.begin(), parameters.end(), std::back_inserter(trainable),
               [](const Tensor& parameter) { return parameter.requires_grad(); });
  require_trainable(trainable, parameters.size());
  return trainable;
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
}

const EMAModel* Trainer::ema() const { return ema_ ? ema_->ema_model() : nullptr; }

const LitEma* Trainer::lit_ema() const { return ema_ ? ema_->lit_ema() : nullptr; }

TrainingResult Trainer::train_and_validate(const Dataset& dataset, const Dataset* validation) {
  stop_requested_ = false;
  try {
    return TrainingRun(*this, dataset, validation).run();
  } catch (const c10::Error& error) {
    throw Error(error.what_without_backtrace());
  }
}

TrainingRun::TrainingRun(Trainer& trainer, const Dataset& dataset, const Dataset* validation)
    : trainer_(trainer),
      config_(trainer.config_),
      task_(*trainer.task_),
      parameters_(all_parameters(task_, config_)),
      trainable_(requiring_gradient(parameters_)),
      device_(trainable_.front().device()),
      dtype_(trainable_.front().scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
      dataset_size_(dataset.size()),
      dataset_(dataset),
      validation_(validation) {
  require<ConfigError>(dataset_size_ > 0, "the data set is empty");
  require<ConfigError>(validation_ == nullptr || validation_->size() > 0, "the validation data set is empty");
  require<ConfigError>(config_.cpu_data_parallel == 1 || device_.is_cpu(),
                       "cpu_data_parallel is {}, but the model lies on {}", config_.cpu_data_parallel,
                       device_.str());
  task_.check_dataset(dataset);
  if (validation_ != nullptr) task_.check_dataset(*validation_);
  const int64_t batches = (dataset_size_ + config_.train_batch_size - 1) / config_.train_batch_size;
  steps_per_epoch_ =
      (batches + config_.gradient_accumulation_steps - 1) / config_.gradient_accumulation_steps;
  total_steps_ = config_.max_train_steps.value_or(config_.num_epochs * steps_per_epoch_);
  lr_schedule_ = get_scheduler(config_.lr_scheduler, {.step_rules = config_.lr_step_rules,
                                                      .num_warmup_steps = config_.lr_warmup_steps,
                                                      .num_training_steps = total_steps_,
                                                      .num_cycles = config_.lr_num_cycles,
                                                      .power = config_.lr_power,
                                                      .lr_init = config_.learning_rate});
  if (config_.lr_warmup_steps >= total_steps_ && config_.lr_scheduler != "constant" &&
      config_.lr_scheduler != "piecewise_constant")
    log_message(
        LogLevel::kWarning,
        fmt::format(
            "lr_warmup_steps is {}, and the training has {} steps: the learning rate never reaches {}",
            config_.lr_warmup_steps, total_steps_, config_.learning_rate));
  if (!device_.is_cpu() && config_.lr_scheduler != "constant")
    device_lr_.emplace(lr_schedule_, std::min(config_.logging_steps, kMostUnsettledSteps), device_);
  if (config_.mixed_precision == MixedPrecision::kFp16) scaler_.emplace(device_);
  trainer_.optimizer_ =
      std::make_shared<Optimizer>(parameter_groups(task_, config_), optimizer_config(config_));
  trainer_.ema_ =
      config_.use_ema ? std::make_shared<TrainingAverage>(named_parameters(task_), config_) : nullptr;

  if (!config_.post_hoc_ema_sigma_rels.empty())
    for (const TrainedModel& trained : task_.models()) {
      const TensorMap parameters(trained.model->module().named_parameters());
      // train_only and freeze may leave a whole model as it is.
      if (std::none_of(parameters.begin(), parameters.end(),
                       [](const auto& entry) { return entry.second.requires_grad(); }))
        continue;
      power_averages_.push_back({trained.name, parameters,
                                 PostHocEma(parameters, {.sigma_rels = config_.post_hoc_ema_sigma_rels})});
    }

  const Tensor zero = at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device_));
  for (Tensor* counter :
       {&counters_.loss_sum, &counters_.finite_steps, &counters_.nonfinite_in_row, &counters_.worst_row,
        &counters_.skipped_steps, &counters_.grad_norm, &counters_.last_skipped})
    *counter = zero.clone();
  counters_.loss_sum = counters_.loss_sum.to(dtype_);
}

TrainingResult TrainingRun::run() {
  create_folders(config_.output_dir);
  lock_.emplace(config_.output_dir);
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
  begin_train_mode(task_);
  if (device_lr_) device_lr_->settle(global_step_, skipped_steps_);
  warn_of_cpu_training(device_, config_.cpu_data_parallel, at::hasCUDA());
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
  trainer_.optimizer_->zero_grad();
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
  write_file_atomically(join_path(config_.output_dir, "training_config.json"), config_.to_json());
}

void TrainingRun::open_loader() {
  loader_.emplace(dataset_, DataLoaderOptions{.batch_size = config_.train_batch_size,
                                              .seed = seed_,
                                              .num_workers = config_.dataloader_num_workers,
                                              .pin_memory = device_.is_cuda()});
}

void TrainingRun::train_step() {
  const double start = now_seconds();
  group_ = next_group();
  data_seconds_ += now_seconds() - start;
  generator_state_ = generator_.get_state();
  step_context_ = {.step = global_step_, .samples = group_.samples, .generator = generator_};
  task_.begin_step(step_context_);
  const Tensor loss = backward(group_);
  update_weights(loss);
  ++global_step_;
  if (device_.is_cpu()) stop_if_nonfinite(counters_.nonfinite_in_row.item<int64_t>());
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
                         "the data set gives a batch without images");
    require<TensorError>(batch->images.size(0) > 0,
                         "the data set gives a batch of 0 samples, images are {}; expected 1 or more",
                         describe(batch->images));
    require_floating_images(batch->images);
    task_.check_batch(*batch);
    check_values(*batch);
    group.samples += batch->images.size(0);
    group.batches.push_back(std::move(*batch));
    epoch_ = loader_->epoch();
  }
  require(group.samples > 0, "the data set gave no batch in epoch {}", epoch_);
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
  Batch moved = batch;
  moved.images = batch.images.to(device_, dtype_, /*non_blocking=*/true);
  if (batch.class_labels.defined())
    moved.class_labels = batch.class_labels.to(device_, /*non_blocking=*/true);
  return moved;
}

Tensor TrainingRun::backward(const Group& group) {
  Tensor mean_loss = at::zeros({}, at::TensorOptions().dtype(dtype_).device(device_));
  for (const Batch& host_batch : group.batches) {
    const Batch batch = to_device(host_batch);
    Tensor losses;
    {
      const Autocast autocast(device_.type(), config_.mixed_precision);
      losses = task_.loss(batch);
    }
    require<TensorError>(losses.defined() && losses.dim() == 1 && losses.size(0) == batch.images.size(0),
                         "the task's loss is {}, expected one value for each of {} samples", describe(losses),
                         batch.images.size(0));
    require<ConfigError>(losses.requires_grad(),
                         "the task's loss depends on none of the {} parameters that are trained",
                         trainable_.size());
    // Divided by the samples of the whole step: small batches then add up to the large one, a short last one
    // included.
    const Tensor loss = losses.sum() / static_cast<double>(group.samples);
    (scaler_ ? scaler_->scale(loss) : loss).backward();
    mean_loss += loss.detach();
  }
  return mean_loss;
}

void TrainingRun::update_weights(const Tensor& loss) {
  const at::NoGradGuard no_grad;
  Tensor is_nonfinite = loss.isfinite().logical_not().to(at::kFloat);
  Tensor is_skipped = is_nonfinite;
  if (scaler_) {
    const Tensor overflow = scaler_->unscale_(trainable_).squeeze();
    is_skipped = at::maximum(is_skipped, overflow);
    // The scaler mends an overflow by halving the scale. At a scale of 1 there is nothing left to halve: the
    // gradients themselves are not finite.
    const Tensor is_exhausted = (scaler_->get_scale().squeeze() <= 1).to(at::kFloat);
    is_nonfinite = at::maximum(is_nonfinite, overflow * is_exhausted);
  }
  const Tensor grad_norm = config_.max_grad_norm > 0 ? clip_grad_norm_(trainable_, config_.max_grad_norm)
                                                     : get_total_grad_norm(trainable_);
  if (!scaler_) {
    is_nonfinite = at::maximum(is_nonfinite, grad_norm.isfinite().logical_not().to(at::kFloat));
    is_skipped = is_nonfinite;
  }
  count(loss, grad_norm, is_nonfinite, is_skipped);
  // Reading costs nothing on the CPU; a device is asked at logging steps alone.
  if (device_.is_cpu() && nonfinite_origin_.empty() && is_nonfinite.item<double>() > 0)
    nonfinite_origin_ = nonfinite_origin();
  step_optimizer(is_skipped);
  trainer_.optimizer_->zero_grad();
  if (scaler_) scaler_->update(is_skipped.view({1}));
  if (trainer_.ema_) trainer_.ema_->step();
  for (PowerAverage& average : power_averages_) average.ema.step(average.parameters);
}

/// The learning rate is that of the number of steps that were taken before; only a CPU can be asked for it.
void TrainingRun::step_optimizer(const Tensor& is_skipped) {
  const Tensor skipped = counters_.skipped_steps - is_skipped;
  if (device_lr_) {
    if (device_lr_->needs_settling(global_step_)) device_lr_->settle(global_step_, skipped.item<int64_t>());
    trainer_.optimizer_->step_with_device_factor(device_lr_->factor(global_step_, skipped),
                                                 is_skipped.view({1}));
  } else {
    const int64_t count = device_.is_cpu() ? skipped.item<int64_t>() : 0;
    trainer_.optimizer_->step(lr_schedule_(global_step_ - count), is_skipped.view({1}));
  }
}

bool TrainingRun::must_stop() const { return trainer_.stop_requested_ || signals_->received(); }

void TrainingRun::finish() {
  require_progress();
  if (config_.validation_steps > 0) {
    validate();
    preview();
    if (must_stop())
      display_->message(
          "a stop was requested after the last step: the model is published without the rest of "
          "the final validation and preview");
  }
  save_power_ema();
  save_final();
}

}  // namespace diffusers
