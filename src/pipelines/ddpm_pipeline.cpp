#include <utility>

#include <diffusers/pipelines/ddpm_pipeline.h>

#include "pipelines/unconditional.h"

namespace diffusers {

DDPMPipeline::DDPMPipeline(const UNet2DModel& unet, const Scheduler& scheduler)
    : parts_(UnconditionalPipeline::make(unet, scheduler.clone(), "DDPMPipeline")) {}
DDPMPipeline::DDPMPipeline(std::unique_ptr<UnconditionalPipeline> parts) : parts_(std::move(parts)) {}
DDPMPipeline::DDPMPipeline(DDPMPipeline&&) noexcept = default;
DDPMPipeline& DDPMPipeline::operator=(DDPMPipeline&&) noexcept = default;
DDPMPipeline::~DDPMPipeline() = default;

ImagePipelineOutput DDPMPipeline::operator()(const DDPMPipelineOptions& options) {
  return parts_->sample(
      {options.batch_size, options.generator, options.num_inference_steps, options.callback_on_step_end}, {});
}

DDPMPipeline DDPMPipeline::from_pretrained(const std::filesystem::path& folder,
                                           const PipelineLoadOptions& options) {
  return DDPMPipeline(UnconditionalPipeline::load(folder, options, "DDPMPipeline"));
}
void DDPMPipeline::save_pretrained(const std::filesystem::path& folder) const {
  parts_->save(folder, "DDPMPipeline");
}

UNet2DModel& DDPMPipeline::unet() { return parts_->unet; }
Scheduler& DDPMPipeline::scheduler() { return *parts_->scheduler; }
void DDPMPipeline::set_scheduler(const Scheduler& scheduler) { parts_->scheduler = scheduler.clone(); }
void DDPMPipeline::set_progress_bar_config(const ProgressBarConfig& config) { parts_->progress_bar = config; }

}  // namespace diffusers
