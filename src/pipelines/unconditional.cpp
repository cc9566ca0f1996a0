#include "pipelines/unconditional.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/io/files.h>

#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "pipelines/components.h"
#include "pipelines/pipeline_index.h"
#include "pipelines/progress_bar.h"

namespace diffusers {
namespace {

/// `[H, W]` of what the model was made for.
std::pair<int64_t, int64_t> sample_size(const UNet2DModel& unet, std::string_view class_name) {
  const std::vector<int64_t> size = unet->config().sample_size.expand(2);
  require<ConfigError>(size.size() == 2 && size[0] > 0 && size[1] > 0,
                       "{}: the model's sample_size is [{}], expected one or two positive numbers",
                       class_name, fmt::join(size, ", "));
  return {size[0], size[1]};
}

}  // namespace

std::unique_ptr<UnconditionalPipeline> UnconditionalPipeline::make(const UNet2DModel& unet,
                                                                   std::unique_ptr<Scheduler> scheduler,
                                                                   std::string_view class_name) {
  require<ConfigError>(!unet.is_empty(), "{}: the model is empty", class_name);
  sample_size(unet, class_name);
  return std::make_unique<UnconditionalPipeline>(UnconditionalPipeline{unet, std::move(scheduler)});
}

std::unique_ptr<UnconditionalPipeline> UnconditionalPipeline::load(const std::filesystem::path& folder,
                                                                   const PipelineLoadOptions& options,
                                                                   std::string_view class_name) {
  const PipelineComponents components = read_pipeline_index(folder, class_name, {"scheduler", "unet"});
  require<FileError>(components.at("unet") == "UNet2DModel",
                     "{}: component \"unet\" is a {}, {} takes a UNet2DModel", folder.string(),
                     components.at("unet"), class_name);

  UNet2DModel unet = UNet2DModel::from_pretrained(
      folder,
      {.subfolder = "unet", .variant = options.variant, .dtype = options.dtype, .device = options.device});
  return make(unet, load_pipeline_scheduler(folder, components.at("scheduler")), class_name);
}

void UnconditionalPipeline::save(const std::filesystem::path& folder, std::string_view class_name) const {
  create_folders(folder);
  unet->save_pretrained(folder / "unet");
  scheduler->save_pretrained(folder / "scheduler");
  // Last, so that a folder with an index is complete.
  write_pipeline_index(folder, class_name, {{"scheduler", scheduler->class_name()}, {"unet", "UNet2DModel"}});
}

ImagePipelineOutput UnconditionalPipeline::sample(const CallOptions& options, StepOptions step_options) {
  require<ConfigError>(options.batch_size > 0, "batch_size is {}, expected at least 1", options.batch_size);
  require<ConfigError>(options.num_inference_steps > 0, "num_inference_steps is {}, expected at least 1",
                       options.num_inference_steps);
  const at::NoGradGuard no_grad;
  const EvalGuard eval(*unet);
  const auto [height, width] = sample_size(unet, "the pipeline");
  const Tensor parameter = unet->parameters().front();
  step_options.generator = options.generator;

  // x_T ~ N(0, I)
  Tensor image = randn_tensor({options.batch_size, unet->config().in_channels, height, width},
                              options.generator, parameter.device(), parameter.scalar_type());
  scheduler->set_timesteps(options.num_inference_steps, {.device = parameter.device()});
  const Timesteps timesteps = scheduler->timesteps();
  ProgressBar bar(progress_bar, timesteps.size(0));
  int64_t step = 0;
  for (const Tensor& t : timesteps) {
    // x_t -> x_{t-1}
    const Tensor model_output = unet->forward(image, t).sample;
    image = scheduler->step(model_output, t, image, step_options).prev_sample;
    call_step_end(options.callback_on_step_end, step, t, image);
    bar.update(++step);
  }
  return {(image / 2 + 0.5).clamp(0, 1)};
}

}  // namespace diffusers
