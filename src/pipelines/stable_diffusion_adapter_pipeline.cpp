#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/denoiser.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/pipelines/stable_diffusion_adapter_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

using AdapterOptions = StableDiffusionAdapterPipelineOptions;

/// One factor for each adapter.
std::vector<double> adapter_scales(const AdapterOptions& options, std::size_t adapters) {
  std::vector<double> scales = options.adapter_conditioning_scale.expand(adapters);
  require<ConfigError>(scales.size() == adapters,
                       "adapter_conditioning_scale has {} values, expected one for all or one for each of {} "
                       "adapters",
                       scales.size(), adapters);
  for (const double scale : scales)
    require<ConfigError>(std::isfinite(scale), "adapter_conditioning_scale is {}, expected a finite number",
                         scale);
  return scales;
}

void check_side(const char* name, std::optional<int64_t> given, int64_t side, int64_t multiple) {
  require<ConfigError>(given.value_or(side) == side,
                       "{} is {}, expected {}, the {} of the conditioning images", name, given.value_or(0),
                       side, name);
  require<ConfigError>(side > 0 && side % multiple == 0,
                       "the conditioning images have the {} {}, expected a multiple of {}, the "
                       "downscale_factor of the adapter",
                       name, side, multiple);
}

/// The conditioning images, not yet repeated.
std::vector<Tensor> adapter_images(const AdapterOptions& options, const std::vector<T2IAdapter>& adapters) {
  const std::vector<Tensor>& given = options.image.values();
  require<ConfigError>(given.size() == adapters.size(),
                       "image has {} tensors, expected {}, one for each adapter", given.size(),
                       adapters.size());
  std::vector<Tensor> images;
  for (std::size_t i = 0; i < adapters.size(); ++i) {
    const std::string name = adapters.size() == 1 ? "image" : fmt::format("image[{}]", i);
    const Tensor image = image_batch(name, given[i]);
    const T2IAdapterConfig& config = adapters[i]->config();
    require<TensorError>(image.size(1) == config.in_channels,
                         "{} is {}, expected {} channels, as the adapter takes", name, describe(given[i]),
                         config.in_channels);
    images.push_back(image);
    require<TensorError>(image.sizes().slice(2) == images[0].sizes().slice(2),
                         "{} is {} x {} (height x width), expected the size of image[0], {} x {}", name,
                         image.size(2), image.size(3), images[0].size(2), images[0].size(3));
    check_side("height", options.height, image.size(2), config.downscale_factor);
    check_side("width", options.width, image.size(3), config.downscale_factor);
  }
  return images;
}

/// The features of the adapters, with a row for each row that the UNet sees.
std::vector<Tensor> adapter_features(const std::vector<T2IAdapter>& adapters,
                                     const std::vector<Tensor>& images, const std::vector<double>& scales,
                                     int64_t num_prompts, const EncodedPrompt& prompt) {
  std::vector<Tensor> features;
  if (adapters.size() == 1) {
    for (const Tensor& feature : adapters[0]->forward(images[0])) features.push_back(feature * scales[0]);
  } else {
    features = MultiAdapter(adapters)->forward(images, scales);
  }
  for (Tensor& feature : features) {
    require<TensorError>(feature.size(0) == 1 || feature.size(0) == num_prompts,
                         "image has {} images, expected one, or one for each of {} prompts", feature.size(0),
                         num_prompts);
    feature = feature.repeat_interleave(prompt.batch_size / feature.size(0), 0);
    if (prompt.is_guided) feature = at::cat({feature, feature});
  }
  return features;
}

}  // namespace

const PipelineSpec& StableDiffusionAdapterPipeline::spec() {
  static const PipelineSpec spec = [] {
    PipelineSpec made = spec_of("StableDiffusionAdapterPipeline");
    // The scheduler stays as it is, as in Python.
    made.adapt_scheduler = nullptr;
    // Python's class has no image encoder.
    std::erase(made.ignored_components, "image_encoder");
    made.components.insert(
        made.components.end() - 1,
        PipelineComponentSpec{.name = "adapter", .class_names = {"T2IAdapter", "MultiAdapter"}});
    return made;
  }();
  return spec;
}

StableDiffusionAdapterPipeline::StableDiffusionAdapterPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder, const CLIPTokenizer& tokenizer,
    const UNet2DConditionModel& unet, const T2IAdapter& adapter, const Scheduler& scheduler)
    : StableDiffusionAdapterPipeline([&] {
        PipelineComponents components = components_of(vae, text_encoder, tokenizer, unet, scheduler);
        components.emplace("adapter", adapter);
        return components;
      }()) {}

StableDiffusionAdapterPipeline::StableDiffusionAdapterPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

std::vector<T2IAdapter> StableDiffusionAdapterPipeline::adapters() {
  if (components().at("adapter").class_name() == "MultiAdapter")
    return component<MultiAdapter>("adapter")->adapters();
  return {component<T2IAdapter>("adapter")};
}

ImagePipelineOutput StableDiffusionAdapterPipeline::operator()(const AdapterOptions& options) {
  const StableDiffusionCall call(*this);
  const std::vector<T2IAdapter> used = adapters();
  std::vector<Tensor> images = adapter_images(options, used);
  const std::vector<double> scales = adapter_scales(options, used.size());
  EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  for (Tensor& image : images) image = image.to(call.tensor_options());
  const int64_t height = images[0].size(2), width = images[0].size(3);
  prompt.conditioning.down_intrablock_additional_residuals =
      adapter_features(used, images, scales, prompt.batch_size / options.num_images_per_prompt, prompt);

  const int64_t steps = call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const int64_t scale = call.vae_scale_factor();
  const Tensor noise = call.noise(
      options.latents, {prompt.batch_size, call.unet()->config().in_channels, height / scale, width / scale},
      options.generator);
  const Tensor latents =
      call.denoise(make_denoiser(call.unet()), prompt, noise * scheduler().init_noise_sigma(), /*start=*/0,
                   steps, denoising_options(options));
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
