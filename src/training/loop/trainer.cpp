#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "core/freed_memory.h"
#include "core/parallel.h"
#include "core/require.h"
#include "io/staged_folder.h"
#include "training/checkpoint/output_folder.h"
#include "training/distributed/exchange_error.h"
#include "training/distributed/gradient_reducer.h"
#include "training/distributed/sharded_reducer.h"
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

/// Drops the warnings of the processes that are not rank 0: they are those of rank 0 once more.
class QuietProcess {
 public:
  explicit QuietProcess(const ProcessGroup& group) : before_(get_verbosity()) {
    if (!group.is_main()) set_verbosity(std::max(before_, LogLevel::kError));
  }
  QuietProcess(const QuietProcess&) = delete;
  QuietProcess& operator=(const QuietProcess&) = delete;
  ~QuietProcess() { set_verbosity(before_); }

 private:
  LogLevel before_;
};

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

Trainer::Trainer(std::shared_ptr<Task> task, TrainingConfig config, ProcessGroup group)
    : task_(std::move(task)), config_(std::move(config)), group_(std::move(group)) {
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
  const QuietProcess quiet(group_);
  const FreedMemoryScope memory;
  try {
    return TrainingRun(*this, data, validation).run();
  } catch (const c10::Error& error) {
    group_.abort(error.what_without_backtrace());
    throw Error(error.what_without_backtrace());
  } catch (const ExchangeError&) {
    throw;  // the others know
  } catch (const std::exception& error) {
    group_.abort(error.what());
    throw;
  }
}

TrainingRun::TrainingRun(Trainer& trainer, const TrainerData& data, const Dataset* validation)
    : trainer_(trainer),
      process_group_(trainer.group_),
      config_(trainer.config_),
      task_(*trainer.task_),
      parameters_(all_parameters(task_, config_)),
      averaged_(tensors_of(averaged_parameters(task_))),
      trainable_(requiring_gradient(parameters_)),
      device_(trainable_.front().device()),
      dtype_(trainable_.front().scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
      copies_(device_, cuda_options()),
      data_(data),
      validation_(validation) {
  data_.share_among(process_group_);
  check_validation();
  check_batch_parts();
  order_weights();
  data_.check(task_);
  if (validation_ != nullptr) task_.check_dataset(*validation_);
  total_steps_ = data_.total_steps(config_);
  for (Update& update : checked_updates(task_, config_))
    updates_.emplace_back(task_, config_, std::move(update), total_steps_, device_, dtype_);
  if (process_group_.world_size() > 1 && process_group_.options().zero_stage > 0)
    sharding_ = std::make_unique<Sharding>(trainable_, process_group_);
  for (UpdateRun& update : updates_) {
    if (sharding_) update.divide(*sharding_);
    if (sharding_ && sharding_->divides_gradients()) {
      reducers_.push_back(
          std::make_unique<ShardedReducer>(update.parameters(), sharding_->shards(), process_group_));
    } else if (process_group_.is_connected()) {
      reducers_.push_back(std::make_unique<GradientReducer>(update.parameters(), process_group_));
    }
  }
  trainer_.optimizers_.clear();
  for (const UpdateRun& update : updates_) trainer_.optimizers_.push_back(update.optimizer());
  trainer_.ema_ = config_.use_ema
                      ? std::make_shared<TrainingAverage>(averaged_parameters(task_), config_,
                                                          sharding_ ? &sharding_->shards() : nullptr)
                      : nullptr;

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
  check_group();
  start();
  first_step_ = global_step_;
  display_ =
      std::make_unique<ProgressDisplay>(config_.progress_bar && process_group_.is_main(), total_steps_);
  if (process_group_.is_main()) {
    metrics_ = std::make_unique<MetricsLog>(config_.output_dir, global_step_);
    open_tensorboard();
  }
  // So that "latest" finds it, whatever happens before the next one is due.
  if (is_from_elsewhere_) save_checkpoint();

  const at::AutoGradMode with_grad(true);  // also within a preview of another training
  const DeterministicScope deterministic(config_.deterministic);
  signals_.emplace(config_.handle_signals);
  freeze_modules();
  begin_train_mode(task_);
  for (UpdateRun& update : updates_) update.settle(global_step_);
  warn_of_slow_training(device_, config_);
  agree_to_stop();
  while (global_step_ < total_steps_ && !must_end()) {
    const double start = now_seconds();
    train_step();
    training_seconds_ += now_seconds() - start;
    display_->step_done(global_step_);
    if (trainer_.on_step_) trainer_.on_step_(global_step_);
    if (global_step_ % config_.logging_steps == 0 || global_step_ == total_steps_) log();
    if (config_.validation_steps > 0 && global_step_ % config_.validation_steps == 0) {
      evaluate();
    }
    if (global_step_ % config_.post_hoc_ema_steps == 0) save_power_ema();
    if (config_.checkpointing_steps > 0 && global_step_ % config_.checkpointing_steps == 0) save_checkpoint();
    agree_to_stop();
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
  if (process_group_.is_main()) {
    metrics_->save_loss_chart(join_path(config_.output_dir, "loss.svg"));
    save_report();
  }
  process_group_.barrier();  // an error of rank 0 ends all
  set_eval_mode(task_);
  for (const UpdateRun& update : updates_) update.optimizer()->zero_grad();
  result.signal = signals_->end();
  if (agreed_signal_.value_or(0) > 0) result.signal = agreed_signal_;
  result.global_step = global_step_;
  result.epoch = epoch_;
  result.loss = last_loss_;
  result.skipped_steps = skipped_steps_;
  return result;
}

/// Rank 0 alone reads and writes output_dir.
void TrainingRun::start() {
  bool is_resumed = false;
  if (process_group_.is_main()) {
    create_folders(config_.output_dir);
    lock_.emplace(config_.output_dir, "output_dir", "training");
    remove_unfinished_folders(config_.output_dir);
    remove_temporary_files(config_.output_dir);
    is_resumed = resume();
    if (!is_resumed) start_fresh();
  }
  if (process_group_.is_connected()) share_start(is_resumed);
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

bool TrainingRun::must_stop() const { return trainer_.stop_requested_ || signals_->received(); }

void TrainingRun::finish() {
  require_progress();
  evaluate();
  if (process_group_.is_main() && must_stop() && (validation_ != nullptr || trainer_.on_preview_))
    display_->message(
        "a stop was requested after the last step: the model is published without the rest of "
        "the final validation and preview");
  save_power_ema();
  save_final();
}

}  // namespace diffusers
