#include <memory>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include "core/require.h"
#include "pipelines/unconditional.h"

namespace diffusers {
namespace {

/// Any scheduler becomes a DDIM scheduler, as in Python.
std::unique_ptr<Scheduler> as_ddim(const Scheduler& scheduler) {
  return std::make_unique<DDIMScheduler>(DDIMScheduler::from_config(scheduler.config_json()));
}

}  // namespace

DDIMPipeline::DDIMPipeline(const UNet2DModel& unet, const Scheduler& scheduler)
    : parts_(UnconditionalPipeline::make(unet, as_ddim(scheduler), "DDIMPipeline")) {}
DDIMPipeline::DDIMPipeline(std::unique_ptr<UnconditionalPipeline> parts) : parts_(std::move(parts)) {
  parts_->scheduler = as_ddim(*parts_->scheduler);
}
DDIMPipeline::DDIMPipeline(DDIMPipeline&&) noexcept = default;
DDIMPipeline& DDIMPipeline::operator=(DDIMPipeline&&) noexcept = default;
DDIMPipeline::~DDIMPipeline() = default;

ImagePipelineOutput DDIMPipeline::operator()(const DDIMPipelineOptions& options) {
  if (!(options.eta >= 0.0 && options.eta <= 1.0))
    log_message(LogLevel::kWarning, fmt::format("eta is {}, expected 0 (DDIM) to 1 (DDPM)", options.eta));
  return parts_->sample(
      {options.batch_size, options.generator, options.num_inference_steps, options.callback_on_step_end},
      {.eta = options.eta, .use_clipped_model_output = options.use_clipped_model_output.value_or(false)});
}

DDIMPipeline DDIMPipeline::from_pretrained(const std::filesystem::path& folder,
                                           const PipelineLoadOptions& options) {
  return DDIMPipeline(UnconditionalPipeline::load(folder, options, "DDIMPipeline"));
}
void DDIMPipeline::save_pretrained(const std::filesystem::path& folder) const {
  parts_->save(folder, "DDIMPipeline");
}

UNet2DModel& DDIMPipeline::unet() { return parts_->unet; }
Scheduler& DDIMPipeline::scheduler() { return *parts_->scheduler; }
void DDIMPipeline::set_scheduler(const Scheduler& scheduler) { parts_->scheduler = as_ddim(scheduler); }
void DDIMPipeline::set_progress_bar_config(const ProgressBarConfig& config) { parts_->progress_bar = config; }

}  // namespace diffusers
