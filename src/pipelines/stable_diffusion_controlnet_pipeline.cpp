#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/models/multi_controlnet.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

using ControlOptions = StableDiffusionControlNetPipelineOptions;

/// The part of the ControlNets in each step.
struct ControlPlan {
  std::vector<Tensor> images;               ///< of each net, with a row for each row that the net sees
  std::vector<std::vector<double>> scales;  ///< of each step and net
  bool guess_mode;                          ///< the nets see the conditional rows only
};

/// One value for each ControlNet.
std::vector<double> for_each_net(std::string_view name, const OneOrMany<double>& values, std::size_t nets) {
  std::vector<double> expanded = values.expand(nets);
  require<ConfigError>(expanded.size() == nets,
                       "{} has {} values, expected one for all or one for each of {} ControlNets", name,
                       expanded.size(), nets);
  for (const double value : expanded)
    require<ConfigError>(std::isfinite(value), "{} is {}, expected a finite number", name, value);
  return expanded;
}

/// The factors of each net in each step, 0 outside of its part of the steps.
std::vector<std::vector<double>> control_scales(const ControlOptions& options, std::size_t nets,
                                                int64_t num_timesteps) {
  const std::vector<double> scale =
      for_each_net("controlnet_conditioning_scale", options.controlnet_conditioning_scale, nets);
  const std::vector<double> starts =
      for_each_net("control_guidance_start", options.control_guidance_start, nets);
  const std::vector<double> ends = for_each_net("control_guidance_end", options.control_guidance_end, nets);
  for (std::size_t net = 0; net < nets; ++net)
    require<ConfigError>(starts[net] >= 0 && starts[net] < ends[net] && ends[net] <= 1,
                         "control_guidance_start and control_guidance_end are {} and {}, expected 0 <= start "
                         "< end <= 1",
                         starts[net], ends[net]);
  std::vector<std::vector<double>> scales;
  const auto count = static_cast<double>(num_timesteps);
  for (int64_t i = 0; i < num_timesteps; ++i) {
    const auto step = static_cast<double>(i);
    std::vector<double>& of_step = scales.emplace_back();
    for (std::size_t net = 0; net < nets; ++net) {
      const bool is_off = step / count < starts[net] || (step + 1) / count > ends[net];
      of_step.push_back(is_off ? 0.0 : scale[net]);
    }
  }
  return scales;
}

std::string image_name(std::size_t index, std::size_t count) {
  return count == 1 ? "image" : fmt::format("image[{}]", index);
}

/// The conditioning images at the size of the result, not yet repeated.
std::vector<Tensor> control_images(const ControlOptions& options, const std::vector<ControlNetModel>& nets,
                                   int64_t scale) {
  const std::vector<Tensor>& given = options.image.values();
  require<ConfigError>(given.size() == nets.size(),
                       "image has {} tensors, expected {}, one for each ControlNet", given.size(),
                       nets.size());
  require<ConfigError>(options.height.value_or(1) > 0 && options.width.value_or(1) > 0,
                       "height and width are {} and {}, expected positive numbers",
                       options.height.value_or(0), options.width.value_or(0));
  std::vector<Tensor> images;
  for (std::size_t i = 0; i < nets.size(); ++i) {
    const std::string name = image_name(i, nets.size());
    const Tensor image = preprocessed_control_image(name, given[i], scale, options.height, options.width);
    const int64_t channels = nets[i]->config().conditioning_channels;
    require<TensorError>(image.size(1) == channels, "{} is {}, expected {} channels, as the ControlNet takes",
                         name, describe(given[i]), channels);
    images.push_back(image);
    require<TensorError>(image.size(2) == images[0].size(2) && image.size(3) == images[0].size(3),
                         "{} is {} x {} (height x width), expected the size of image[0], {} x {}", name,
                         image.size(2), image.size(3), images[0].size(2), images[0].size(3));
  }
  return images;
}

/// Repeats the images of each net: one for all, or one for each prompt.
void repeat_images(std::vector<Tensor>& images, int64_t num_prompts, int64_t num_images_per_prompt,
                   bool is_doubled, const at::TensorOptions& options) {
  for (std::size_t i = 0; i < images.size(); ++i) {
    Tensor& image = images[i];
    require<TensorError>(image.size(0) == 1 || image.size(0) == num_prompts,
                         "{} has {} images, expected one, or one for each of {} prompts",
                         image_name(i, images.size()), image.size(0), num_prompts);
    const int64_t copies = image.size(0) == 1 ? num_prompts * num_images_per_prompt : num_images_per_prompt;
    image = image.repeat_interleave(copies, 0).to(options);
    if (is_doubled) image = at::cat({image, image});
  }
}

/// Adds zeros for the unconditional rows.
void add_unconditional_rows(ControlNetOutput& residuals) {
  const auto extended = [](const Tensor& rows) { return at::cat({at::zeros_like(rows), rows}); };
  for (Tensor& residual : residuals.down_block_res_samples) residual = extended(residual);
  residuals.mid_block_res_sample = extended(residuals.mid_block_res_sample);
}

/// The UNet with the residuals of the ControlNets.
/// @param step number of the calls so far; the loop calls the denoiser once for each timestep
Denoiser controlled(const UNet2DConditionModel& unet, const MultiControlNetModel& nets, ControlPlan plan,
                    bool is_guided, const std::shared_ptr<std::size_t>& step) {
  return [denoiser = in_automatic_parts(make_denoiser(unet), *unet), nets, plan = std::move(plan), is_guided,
          step](const Tensor& noisy, const Tensor& timesteps, const Conditioning& conditioning) {
    const std::vector<double>& scales = plan.scales[(*step)++];
    const bool is_halved = plan.guess_mode && is_guided;
    const Tensor& states = conditioning.encoder_hidden_states;
    ControlNetOutput residuals = nets->forward(is_halved ? noisy.chunk(2)[1] : noisy, timesteps,
                                               is_halved ? states.chunk(2)[1] : states, plan.images, scales,
                                               {.guess_mode = plan.guess_mode});
    if (!residuals.mid_block_res_sample.defined()) return denoiser(noisy, timesteps, conditioning);
    if (is_halved) add_unconditional_rows(residuals);
    Conditioning with_residuals = conditioning;
    with_residuals.down_block_additional_residuals = std::move(residuals.down_block_res_samples);
    with_residuals.mid_block_additional_residual = residuals.mid_block_res_sample;
    return denoiser(noisy, timesteps, with_residuals);
  };
}

}  // namespace

const PipelineSpec& StableDiffusionControlNetPipeline::spec() {
  static const PipelineSpec spec = [] {
    PipelineSpec made = spec_of("StableDiffusionControlNetPipeline");
    // The scheduler stays as it is, as in Python.
    made.adapt_scheduler = nullptr;
    made.components.insert(made.components.end() - 1,
                           PipelineComponentSpec{.name = "controlnet",
                                                 .class_names = {"ControlNetModel", "MultiControlNetModel"}});
    return made;
  }();
  return spec;
}

StableDiffusionControlNetPipeline::StableDiffusionControlNetPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder, const CLIPTokenizer& tokenizer,
    const UNet2DConditionModel& unet, const ControlNetModel& controlnet, const Scheduler& scheduler)
    : StableDiffusionControlNetPipeline([&] {
        PipelineComponents components = components_of(vae, text_encoder, tokenizer, unet, scheduler);
        components.emplace("controlnet", controlnet);
        return components;
      }()) {}

StableDiffusionControlNetPipeline::StableDiffusionControlNetPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder, const CLIPTokenizer& tokenizer,
    const UNet2DConditionModel& unet, const std::vector<ControlNetModel>& controlnet,
    const Scheduler& scheduler)
    : StableDiffusionControlNetPipeline([&] {
        PipelineComponents components = components_of(vae, text_encoder, tokenizer, unet, scheduler);
        components.emplace("controlnet", MultiControlNetModel(controlnet));
        return components;
      }()) {}

StableDiffusionControlNetPipeline::StableDiffusionControlNetPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

std::vector<ControlNetModel> StableDiffusionControlNetPipeline::controlnets() {
  if (components().at("controlnet").class_name() == MultiControlNetModelImpl::kClassName)
    return component<MultiControlNetModel>("controlnet")->nets();
  return {component<ControlNetModel>("controlnet")};
}

ImagePipelineOutput StableDiffusionControlNetPipeline::operator()(const ControlOptions& options) {
  const StableDiffusionCall call(*this);
  const MultiControlNetModel nets(controlnets());
  const std::size_t count = nets->nets().size();
  const int64_t scale = call.vae_scale_factor();
  ControlPlan plan{.images = control_images(options, nets->nets(), scale),
                   .scales = {},
                   .guess_mode = options.guess_mode || nets->nets().front()->config().global_pool_conditions};
  control_scales(options, count, 0);  // checks them before the text encoder runs
  const EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  repeat_images(plan.images, prompt.batch_size / options.num_images_per_prompt, options.num_images_per_prompt,
                prompt.is_guided && !plan.guess_mode, call.tensor_options());

  const int64_t steps = call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  plan.scales = control_scales(options, count, scheduler().timesteps().size(0));
  const Tensor noise = call.noise(options.latents,
                                  {prompt.batch_size, call.unet()->config().in_channels,
                                   plan.images[0].size(2) / scale, plan.images[0].size(3) / scale},
                                  options.generator);
  const Denoiser denoiser =
      controlled(call.unet(), nets, std::move(plan), prompt.is_guided, std::make_shared<std::size_t>(0));
  const Tensor latents = call.denoise(denoiser, prompt, noise * scheduler().init_noise_sigma(), /*start=*/0,
                                      steps, denoising_options(options));
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
