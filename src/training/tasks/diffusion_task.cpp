#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/training/batch_split.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/pyramid_noise.h>

#include <ATen/ATen.h>

#include "core/parallel.h"
#include "core/require.h"
#include "models/unet/row_parts.h"
#include "training/objective/forward_process.h"
#include "training/tasks/class_labels.h"
#include "training/tasks/diffusion_options.h"
#include "training/tasks/lora_module.h"
#include "training/tasks/task_extras.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {

DiffusionTask::DiffusionTask(TrainableDenoiser model, const Scheduler& scheduler,
                             DiffusionTaskOptions options, std::string name)
    : DiffusionTask(std::move(model), scheduler.clone(), nullptr, std::move(options), std::move(name)) {
  require_trainable(scheduler);
}

DiffusionTask::DiffusionTask(TrainableDenoiser model, std::shared_ptr<const ForwardProcess> process,
                             DiffusionTaskOptions options, std::string name)
    : DiffusionTask(std::move(model), nullptr, std::move(process), std::move(options), std::move(name)) {}

DiffusionTask::DiffusionTask(TrainableDenoiser model, std::shared_ptr<const Scheduler> scheduler,
                             std::shared_ptr<const ForwardProcess> process, DiffusionTaskOptions options,
                             std::string name)
    : model_(std::move(model)),
      scheduler_(std::move(scheduler)),
      process_(std::move(process)),
      options_(std::move(options)) {
  require<ConfigError>(model_.saved != nullptr && model_.denoise, "DiffusionTask: there is no model");
  require_plain_basename(name, "the name of a model");
  validate_task_options(options_);
  labels_ = std::make_shared<ClassLabels>(options_, model_.info);
  trained_.push_back({std::move(name), model_.saved});
  add_log_variance();
}

void DiffusionTask::add_log_variance() {
  const LogVarianceType type = options_.learned_log_variance;
  if (type == LogVarianceType::kNone) return;
  log_variance_ = LearnedLogVariance(
      LearnedLogVarianceConfig{.type = type,
                               .num_train_timesteps = sampling_scheduler().num_train_timesteps(),
                               .logvar_init = options_.logvar_init});
  trained_.push_back({"log_variance", make_saved_module(log_variance_)});
}

const Scheduler& DiffusionTask::sampling_scheduler() const {
  return scheduler_ ? *scheduler_ : process_->scheduler();
}

void DiffusionTask::require_configured(const char* method) const {
  require<Error>(objective_.has_value(), "DiffusionTask::{}: configure() was not called", method);
}

void DiffusionTask::configure(const TrainingConfig& config) {
  if (!is_lora_module(*model_.saved))
    require_no_adapter(model_.saved->module(), ("the model \"" + trained_.front().name + "\"").c_str());
  const DiffusionLossOptions loss = loss_options(options_, config);
  if (scheduler_) process_ = make_process(*scheduler_, loss);
  objective_.emplace(process_, loss);
  sampler_.emplace(sampling_scheduler().num_train_timesteps(), sampling_options(options_, config));
  require_possible_times(options_, *process_);
  require_embeddable_times(model_.info, *process_);
  require_divisible_batches(batch_split(), config.cpu_data_parallel);
  if (config.gradient_checkpointing) model_.saved->enable_gradient_checkpointing();
  const std::vector<Tensor> parameters = model_.saved->module().parameters();
  if (!log_variance_.is_empty() && !parameters.empty())
    log_variance_->to(parameters.front().device(), parameters.front().scalar_type());
  resolution_ = config.resolution;
  cpu_data_parallel_ = config.cpu_data_parallel;
  noise_offset_ = config.noise_offset;
  input_perturbation_ = config.input_perturbation;
}

std::shared_ptr<const ForwardProcess> DiffusionTask::make_process(const Scheduler& scheduler,
                                                                  const DiffusionLossOptions& loss) const {
  return make_forward_process(scheduler, loss);
}

BatchSplit DiffusionTask::batch_split() const {
  BatchSplit split{.obstacle = {}, .is_automatic = model_.is_thread_safe};
  if (model_.info.dropout > 0) {
    split.obstacle = fmt::format(
        "the model has dropout {}, whose random numbers would be drawn in another order each time",
        model_.info.dropout);
  } else if (has_batch_statistics(model_.saved->module())) {
    split.obstacle = "the model has batch normalisation, whose statistics are those of whole batches";
  }
  return split;
}

std::string DiffusionTask::process_obstacle() const {
  if (options_.timestep_sampling != TimestepSampling::kLossSecondMoment) return {};
  return "timestep_sampling \"loss_second_moment\" learns from the losses of all samples; choose another "
         "one, or "
         "train in one process";
}

void DiffusionTask::check_dataset(const Dataset& dataset) {
  require_configured("check_dataset");
  labels_->check_class_count(dataset.class_count());
}

void DiffusionTask::check_iterable_dataset(const IterableDataset& dataset) {
  require_configured("check_iterable_dataset");
  labels_->check_class_count(dataset.class_count());
}

void DiffusionTask::check_batch(const Batch& batch) {
  require_configured("check_batch");
  labels_->check(batch);
}

void DiffusionTask::begin_step(const StepContext& context) {
  context_ = context;
  rows_.begin_step(context);
}

Tensor DiffusionTask::log_variance(const Tensor& timesteps) const {
  if (log_variance_.is_empty()) return {};
  const bool is_table = options_.learned_log_variance == LogVarianceType::kTable;
  return log_variance_->forward(is_table ? timesteps : process_->log_variance_time(timesteps));
}

Tensor DiffusionTask::predict(const Tensor& noisy, const Tensor& timesteps, const Conditioning& conditioning,
                              int64_t parts) const {
  return predict_in_parts(model_, process_->model_input(noisy, timesteps), process_->model_time(timesteps),
                          conditioning, parts);
}

StepLoss DiffusionTask::loss(const Batch& batch, std::size_t) {
  require_configured("loss");
  const Tensor x0 = encode(batch);
  const Draw drawn = draw(x0);
  const int64_t parts = context_.cpu_data_parallel > 0 ? context_.cpu_data_parallel : cpu_data_parallel_;
  const Tensor noisy = [&] {
    const OneIntraopThread one_thread(parts > 1);
    return process_->noisy(x0, drawn.input_noise, drawn.timesteps);
  }();
  const Tensor prediction =
      predict(noisy, drawn.timesteps, labels_->drop(conditioning(batch), drawn.is_unconditional),
              std::max<int64_t>(parts, 1));
  const OneIntraopThread one_thread(parts > 1);
  const Tensor losses =
      (*objective_)(prediction, x0, drawn.noise, drawn.timesteps, log_variance(drawn.timesteps));
  sampler_->update(drawn.timesteps, losses);
  return drawn.weights.defined() ? losses * drawn.weights : losses;
}

Tensor DiffusionTask::validation_loss(const Batch& batch, const Tensor& positions,
                                      const Generator& generator) {
  require_configured("validation_loss");
  const Tensor x0 = encode_for_validation(batch, generator);
  const Tensor timesteps = process_->times_at(positions, x0.options());
  const Tensor noise = at::randn(x0.sizes(), generator, x0.options());
  const Tensor noisy = process_->noisy(x0, noise, timesteps);
  const Tensor prediction = predict(noisy, timesteps, conditioning(batch), /*parts=*/1);
  return (*objective_)(prediction, x0, noise, timesteps);
}

Tensor DiffusionTask::encode(const Batch& batch) { return images_of(batch, resolution_); }

Tensor DiffusionTask::encode_for_validation(const Batch& batch, const Generator& /*generator*/) {
  return encode(batch);
}

Conditioning DiffusionTask::conditioning(const Batch& batch) {
  return options_.conditioning ? options_.conditioning(batch) : labels_->conditioning(batch);
}

DiffusionTask::Draw DiffusionTask::draw(const Tensor& x0) {
  rows_.next(x0, [&](at::IntArrayRef shape) {
    step_draw_ = draw_samples(shape, x0.options().requires_grad(false));
  });
  return {rows_.of(step_draw_.noise), rows_.of(step_draw_.input_noise), rows_.of(step_draw_.timesteps),
          rows_.of(step_draw_.weights), rows_.of(step_draw_.is_unconditional)};
}

DiffusionTask::Draw DiffusionTask::draw_samples(at::IntArrayRef shape, const at::TensorOptions& options) {
  require_configured("draw");
  const std::optional<Generator>& generator = context_.generator;
  Draw drawn;
  const auto draw_times = [&] {
    const TimestepSampler::Draw times = process_->draw(*sampler_, shape[0], generator, options);
    drawn.timesteps = times.timesteps;
    drawn.weights = times.weights;
  };
  if (process_->draws_times_first()) draw_times();
  drawn.noise = at::randn(shape, generator, options);
  if (noise_offset_ > 0) {
    std::vector<int64_t> per_channel(shape.size(), 1);
    per_channel[0] = shape[0];
    per_channel[1] = shape[1];
    drawn.noise = drawn.noise + noise_offset_ * at::randn(per_channel, generator, options);
  }
  if (options_.pyramid_noise_iterations > 0)
    drawn.noise = pyramid_noise(
        drawn.noise,
        {.iterations = options_.pyramid_noise_iterations, .discount = options_.pyramid_noise_discount},
        generator);
  drawn.input_noise = drawn.noise;
  if (input_perturbation_ > 0)
    drawn.input_noise = drawn.noise + input_perturbation_ * at::randn(shape, generator, options);
  if (!process_->draws_times_first()) draw_times();
  drawn.is_unconditional = labels_->draw_dropped(shape[0], generator, options);
  return drawn;
}

TensorMap DiffusionTask::state() const { return sampler_ ? sampler_->state_dict() : TensorMap(); }

void DiffusionTask::load_state(const TensorMap& state) {
  require_configured("load_state");
  sampler_->load_state_dict(state);
}

std::string DiffusionTask::config_json() const { return diffusion_task_json(sampling_scheduler(), options_); }

void DiffusionTask::save_extras(const std::filesystem::path& output_dir) const {
  require_configured("save_extras");
  const Scheduler& scheduler = sampling_scheduler();
  scheduler.save_pretrained(join_path(output_dir, "scheduler"));
  if (const auto shares = process_->shares())
    save_noise_schedule_picture(*shares, join_path(output_dir, "noise_schedule.svg"));
  save_pipeline_files(output_dir);
}

void DiffusionTask::save_pipeline_files(const std::filesystem::path& output_dir) const {
  save_model_index(trained_.front(), sampling_scheduler(), output_dir);
}

}  // namespace diffusers
