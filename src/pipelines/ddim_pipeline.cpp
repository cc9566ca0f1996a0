#include <memory>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>

#include "core/require.h"
#include "pipelines/unconditional.h"

namespace diffusers {

const PipelineSpec& DDIMPipeline::spec() {
  // Any scheduler becomes a DDIM scheduler, as in Python.
  static const PipelineSpec spec =
      unconditional_spec("DDIMPipeline", [](const Scheduler& scheduler) -> std::unique_ptr<Scheduler> {
        return std::make_unique<DDIMScheduler>(DDIMScheduler::from_config(scheduler.config_json()));
      });
  return spec;
}

DDIMPipeline::DDIMPipeline(const UNet2DModel& unet, const Scheduler& scheduler)
    : DDIMPipeline(PipelineComponents{{"unet", unet}, {"scheduler", scheduler}}) {}

DDIMPipeline::DDIMPipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {
  unconditional_size(*this);
}

ImagePipelineOutput DDIMPipeline::operator()(const DDIMPipelineOptions& options) {
  if (!(options.eta >= 0.0 && options.eta <= 1.0))
    log_message(LogLevel::kWarning, fmt::format("eta is {}, expected 0 (DDIM) to 1 (DDPM)", options.eta));
  return sample_unconditional(
      *this,
      {options.batch_size, options.generator, options.num_inference_steps, options.callback_on_step_end},
      {.eta = options.eta, .use_clipped_model_output = options.use_clipped_model_output.value_or(false)});
}

UNet2DModel& DDIMPipeline::unet() { return component<UNet2DModel>("unet"); }

}  // namespace diffusers
