#include "pipelines/unconditional.h"

#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/denoise.h>
#include <diffusers/pipelines/inference_guard.h>

#include "core/part_threads.h"
#include "core/require.h"
#include "models/unet/row_parts.h"

namespace diffusers {
inline namespace internal {

PipelineSpec unconditional_spec(const char* class_name,
                                std::unique_ptr<Scheduler> (*adapt_scheduler)(const Scheduler&)) {
  return {.class_name = class_name,
          .components = {{.name = "unet", .class_names = {"UNet2DModel"}}, {.name = "scheduler"}},
          .adapt_scheduler = adapt_scheduler};
}

std::pair<int64_t, int64_t> unconditional_size(DiffusionPipeline& pipeline) {
  const std::vector<int64_t> size = pipeline.component<UNet2DModel>("unet")->config().sample_size.expand(2);
  require<ConfigError>(size.size() == 2 && size[0] > 0 && size[1] > 0,
                       "{}: the model's sample_size is [{}], expected one or two positive numbers",
                       pipeline.class_name(), fmt::join(size, ", "));
  return {size[0], size[1]};
}

ImagePipelineOutput sample_unconditional(DiffusionPipeline& pipeline, const UnconditionalCall& call,
                                         StepOptions step_options) {
  require<ConfigError>(call.batch_size > 0, "batch_size is {}, expected at least 1", call.batch_size);
  require<ConfigError>(call.num_inference_steps > 0, "num_inference_steps is {}, expected at least 1",
                       call.num_inference_steps);
  const InferenceGuard guard(pipeline);
  const UNet2DModel unet = pipeline.component<UNet2DModel>("unet");
  const auto [height, width] = unconditional_size(pipeline);
  const Tensor parameter = unet->parameters().front();
  step_options.generator = call.generator;

  // x_T ~ N(0, I)
  const Tensor noise = randn_tensor({call.batch_size, unet->config().in_channels, height, width},
                                    call.generator, parameter.device(), parameter.scalar_type());
  pipeline.scheduler().set_timesteps(call.num_inference_steps, {.device = parameter.device()});
  const OneThreadBetweenParts one_thread(automatic_parts_of(*unet, noise) > 1);
  const Tensor image =
      denoise(pipeline, in_automatic_parts(make_denoiser(unet), *unet), {}, noise, call.num_inference_steps,
              call.callback_on_step_end, {.step = std::move(step_options), .scale_model_input = false});
  return {(image / 2 + 0.5).clamp(0, 1)};
}

}  // namespace internal
}  // namespace diffusers
