#include <utility>

#include <diffusers/pipelines/ddpm_pipeline.h>

#include "pipelines/unconditional.h"

namespace diffusers {

const PipelineSpec& DDPMPipeline::spec() {
  static const PipelineSpec spec = unconditional_spec("DDPMPipeline");
  return spec;
}

DDPMPipeline::DDPMPipeline(const UNet2DModel& unet, const Scheduler& scheduler)
    : DDPMPipeline(PipelineComponents{{"unet", unet}, {"scheduler", scheduler}}) {}

DDPMPipeline::DDPMPipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {
  unconditional_size(*this);
}

ImagePipelineOutput DDPMPipeline::operator()(const DDPMPipelineOptions& options) {
  return sample_unconditional(*this, {options.batch_size, options.generator, options.num_inference_steps,
                                      options.callback_on_step_end});
}

UNet2DModel& DDPMPipeline::unet() { return component<UNet2DModel>("unet"); }

}  // namespace diffusers
