#include "unconditional_training.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <utility>

#include <diffusers/core/random.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include "../training_group.h"
#include "fit_model.h"
#include "guidance.h"

using namespace diffusers;

UnconditionalTraining::UnconditionalTraining(UnconditionalSettings settings, Sampler sampler)
    : settings_(std::move(settings)),
      sampler_(sampler),
      device_(settings_.device),
      scheduler_(settings_.scheduler) {
  if (settings_.training.seed) manual_seed(static_cast<uint64_t>(*settings_.training.seed));
  // The channels of a given model determine whether the images are read as gray or as RGB.
  data_ = open_training_data(settings_.data, *settings_.training.resolution,
                             settings_.has_model_config() ? settings_.model.in_channels : 3);
  fit_model(settings_, data_);
  unet_ = UNet2DModel(settings_.model);
  unet_->to(device_);
  std::printf("UNet2DModel with %lld parameters on %s, %s\n", static_cast<long long>(unet_->num_parameters()),
              device_.str().c_str(), data_.train.description().c_str());
}

int64_t UnconditionalTraining::columns() const {
  return settings_.class_conditional ? std::min<int64_t>(data_.num_classes, 10) : 4;
}

Tensor UnconditionalTraining::labels(int64_t count, int64_t num_classes) const {
  return settings_.class_conditional ? labels_by_column(count, num_classes, device_) : Tensor();
}

Tensor UnconditionalTraining::sample(const SampleRequest& request) {
  unet_->eval();
  const Generator generator = make_generator(0);
  std::unique_ptr<Scheduler> scheduler = scheduler_.clone();
  SamplingLoopOptions options{.step = {.generator = generator}};
  if (sampler_.use_ddim) {
    scheduler = std::make_unique<DDIMScheduler>(DDIMScheduler::from_config(scheduler_.config_json()));
    options.step.eta = sampler_.eta;
    // Guidance predicts pixels far beyond white. If x_0 is clipped, epsilon must be computed from the clipped
    // x_0, or the steps lead away from the requested class.
    options.step.use_clipped_model_output = settings_.class_conditional;
    options.temperature = sampler_.temperature;
  }
  scheduler->set_timesteps(request.steps, {.device = device_});
  const int64_t side = *settings_.training.resolution;
  const Tensor noise =
      randn_tensor({request.count, settings_.model.in_channels, side, side}, generator, device_);
  const SamplingModel model = guided_model(unet_, request.labels, request.guidance_scale);
  const Tensor images = sampling_loop(
      *scheduler,
      [&](const Tensor& x, const Tensor& t) {
        if (request.must_stop && request.must_stop()) throw PreviewStopped();
        return model(x, t);
      },
      noise, options);
  return (images / 2 + 0.5).clamp(0, 1);
}

void UnconditionalTraining::choose_preview_steps() {
  if (!settings_.save_images_epochs) return;
  const int64_t images = *settings_.save_images_epochs;
  settings_.training.validation_steps =
      steps_per_epoch(data_.train, settings_.training, "--save_images_epochs") *
      std::gcd(images, settings_.save_model_epochs.value_or(images));
}

TrainingResult UnconditionalTraining::train(const std::function<void(const PreviewContext&)>& preview) {
  choose_preview_steps();
  const bool counts_epochs = settings_.save_images_epochs || settings_.save_model_epochs;
  const int64_t epoch_steps =
      counts_epochs
          ? steps_per_epoch(data_.train, settings_.training,
                            settings_.save_images_epochs ? "--save_images_epochs" : "--save_model_epochs")
          : 0;
  int64_t saves = 0;
  Trainer trainer(unet_, scheduler_, trainer_config(settings_.training, settings_.data.shards),
                  settings_.task, training_group());
  trainer.on_preview([&](const PreviewContext& at) {
    const bool is_last = at.step == at.total_steps;
    if (!settings_.save_images_epochs || at.step % (epoch_steps * *settings_.save_images_epochs) == 0 ||
        is_last) {
      try {
        preview(at);
      } catch (const PreviewStopped&) {
        return;  // return, so that the training can save a checkpoint
      }
    }
    if (!settings_.save_model_epochs || is_last) return;
    const int64_t due = at.step / (epoch_steps * *settings_.save_model_epochs);
    if (due > saves) DDPMPipeline(unet_, scheduler_).save_pretrained(settings_.training.output_dir);
    saves = due;
  });
  return data_.train.train(trainer, data_.held_out.get());
}
