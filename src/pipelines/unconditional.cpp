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
#include <torch/nn/module.h>

#include "core/format.h"
#include "core/json.h"
#include "io/posix_file.h"
#include "pipelines/pipeline_index.h"
#include "pipelines/progress_bar.h"

namespace diffusers {
namespace {

/// Puts a model into eval mode, and each of its modules back into the mode it had.
class EvalGuard {
 public:
  explicit EvalGuard(torch::nn::Module& model) : modules_(model.modules()) {
    was_training_.reserve(modules_.size());
    for (const auto& module : modules_) was_training_.push_back(module->is_training());
    model.eval();
  }
  EvalGuard(const EvalGuard&) = delete;
  EvalGuard& operator=(const EvalGuard&) = delete;
  ~EvalGuard() {
    // train() reaches all modules below, and parents stand before their children.
    for (std::size_t i = 0; i < modules_.size(); ++i)
      if (modules_[i]->is_training() != was_training_[i]) modules_[i]->train(was_training_[i]);
  }

 private:
  std::vector<std::shared_ptr<torch::nn::Module>> modules_;
  std::vector<bool> was_training_;
};

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
  return std::unique_ptr<UnconditionalPipeline>(new UnconditionalPipeline{unet, std::move(scheduler)});
}

std::unique_ptr<UnconditionalPipeline> UnconditionalPipeline::load(const std::filesystem::path& folder,
                                                                   const PipelineLoadOptions& options,
                                                                   std::string_view class_name) {
  const PipelineComponents components = read_pipeline_index(folder, class_name, {"scheduler", "unet"});
  require<FileError>(components.at("unet") == "UNet2DModel",
                     "{}: component \"unet\" is a {}, {} takes a UNet2DModel", folder.string(),
                     components.at("unet"), class_name);

  // The index says which class reads the scheduler's config, whatever class wrote it.
  const std::string path = folder / "scheduler" / "scheduler_config.json";
  require<FileError>(file_exists(path), "{}: component \"scheduler\" has no scheduler_config.json",
                     folder.string());
  Json config = parse_json(read_text_file(path_inside(parent_folder(path), base_name(path))), path);
  require<FileError>(config.is_object(), "{}: expected a JSON object", path);
  config["_class_name"] = components.at("scheduler");

  UNet2DModel unet = UNet2DModel::from_pretrained(
      folder,
      {.subfolder = "unet", .variant = options.variant, .dtype = options.dtype, .device = options.device});
  return make(unet, Scheduler::from_config(dump_json(config)), class_name);
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
  scheduler->set_timesteps(options.num_inference_steps);
  const Timesteps timesteps = scheduler->timesteps();
  ProgressBar bar(progress_bar, timesteps.size(0));
  int64_t step = 0;
  for (const Tensor& t : timesteps) {
    // x_t -> x_{t-1}
    const Tensor model_output = unet->forward(image, t).sample;
    image = scheduler->step(model_output, t, image, step_options).prev_sample;
    if (options.callback_on_step_end) {
      const Tensor before = image;
      options.callback_on_step_end(step, t, image);
      require<TensorError>(
          image.defined() && image.sizes() == before.sizes() && image.options().type_equal(before.options()),
          "callback_on_step_end gave {}, expected {}", describe(image), describe(before));
    }
    bar.update(++step);
  }
  return {(image / 2 + 0.5).clamp(0, 1)};
}

}  // namespace diffusers
