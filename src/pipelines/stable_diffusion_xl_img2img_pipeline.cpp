#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion_xl.h"

namespace diffusers {
namespace {

using XLImageOptions = StableDiffusionXLImg2ImgPipelineOptions;

/// @throws ConfigError naming an option that the class's settings or another option leave without effect
void check_image_options(const XLImageOptions& options, bool requires_score) {
  const XLImageOptions defaults;
  require<ConfigError>(options.strength >= 0 && options.strength <= 1, "strength is {}, expected 0 to 1",
                       options.strength);
  require<ConfigError>(!options.denoising_start || options.strength == defaults.strength,
                       "strength and denoising_start are both given, expected at most one of them");
  require<ConfigError>(
      !options.denoising_start || !options.denoising_end || *options.denoising_start < *options.denoising_end,
      "denoising_start is {} and denoising_end {}, expected an earlier start",
      options.denoising_start.value_or(0), options.denoising_end.value_or(0));
  require<ConfigError>(options.image.defined() != options.latents.defined(),
                       "image and latents are both {}, expected one of them",
                       options.image.defined() ? "given" : "undefined");
  require<ConfigError>(
      requires_score || (options.aesthetic_score == defaults.aesthetic_score &&
                         options.negative_aesthetic_score == defaults.negative_aesthetic_score),
      "aesthetic_score or negative_aesthetic_score is given, but the pipeline has no "
      "requires_aesthetics_score");
  require<ConfigError>(
      requires_score || options.negative_crops_coords_top_left == defaults.negative_crops_coords_top_left,
      "negative_crops_coords_top_left is given, but has an effect only with requires_aesthetics_score; "
      "without it, both halves take crops_coords_top_left");
  require<ConfigError>(
      !requires_score || (options.target_size.empty() && options.negative_target_size.empty()),
      "target_size or negative_target_size is given, but with requires_aesthetics_score the UNet takes an "
      "aesthetic score in its place");
}

TimeIds appended(TimeIds ids, const TimeIds& more) {
  ids.insert(ids.end(), more.begin(), more.end());
  return ids;
}

/// The time ids of the prompt, and those of the unprompted half.
std::pair<TimeIds, TimeIds> image_ids(const XLImageOptions& options, const std::vector<int64_t>& size,
                                      bool requires_score) {
  const TimeIds original = two_numbers("original_size", options.original_size, size);
  const TimeIds crop = two_numbers("crops_coords_top_left", options.crops_coords_top_left);
  const TimeIds target = two_numbers("target_size", options.target_size, size);
  const TimeIds negative_original =
      options.negative_original_size.empty()
          ? original
          : two_numbers("negative_original_size", options.negative_original_size);
  const TimeIds negative_crop =
      two_numbers("negative_crops_coords_top_left", options.negative_crops_coords_top_left);
  const TimeIds negative_target = options.negative_target_size.empty()
                                      ? target
                                      : two_numbers("negative_target_size", options.negative_target_size);
  if (requires_score)
    return {appended(appended(original, crop), {options.aesthetic_score}),
            appended(appended(negative_original, negative_crop), {options.negative_aesthetic_score})};
  return {appended(appended(original, crop), target),
          appended(appended(negative_original, crop), negative_target)};
}

/// The latents to start from, with the noise of the timestep at the position `start`.
Tensor starting_latents(const StableDiffusionXLCall& call, const XLImageOptions& options, const Tensor& image,
                        int64_t batch_size, int64_t start) {
  if (options.latents.defined()) {
    const int64_t channels = call.unet()->config().in_channels;
    require<TensorError>(options.latents.dim() == 4 && options.latents.size(0) == batch_size &&
                             options.latents.size(1) == channels && options.latents.is_floating_point(),
                         "latents is {}, expected a floating [{}, {}, h, w]", describe(options.latents),
                         batch_size, channels);
    return options.latents.to(call.tensor_options());
  }
  Tensor x0 =
      repeated_rows("image",
                    image.size(1) == kImageLatentChannels ? image.to(call.tensor_options())
                                                          : call.encode_image(image, options.generator),
                    batch_size);
  if (options.denoising_start) return x0;
  return call.add_noise(x0, call.noise({}, x0.sizes(), options.generator), start);
}

}  // namespace

const PipelineSpec& StableDiffusionXLImg2ImgPipeline::spec() {
  static const PipelineSpec spec = [] {
    PipelineSpec made = spec_of("StableDiffusionXLImg2ImgPipeline");
    made.settings["requires_aesthetics_score"] = false;
    return made;
  }();
  return spec;
}

StableDiffusionXLImg2ImgPipeline::StableDiffusionXLImg2ImgPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
    const CLIPTextModelWithProjection& text_encoder_2, const CLIPTokenizer& tokenizer,
    const CLIPTokenizer& tokenizer_2, const UNet2DConditionModel& unet, const Scheduler& scheduler,
    bool requires_aesthetics_score, bool force_zeros_for_empty_prompt)
    : StableDiffusionXLImg2ImgPipeline(
          components_of(vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler)) {
  set_requires_aesthetics_score(requires_aesthetics_score);
  set_force_zeros_for_empty_prompt(force_zeros_for_empty_prompt);
}

StableDiffusionXLImg2ImgPipeline::StableDiffusionXLImg2ImgPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionXLImg2ImgPipeline::operator()(const XLImageOptions& options) {
  check_image_options(options, requires_aesthetics_score());
  const StableDiffusionXLCall call(*this);
  const Tensor image = options.image.defined()
                           ? preprocessed_image(class_name(), options.image, call.vae_scale_factor())
                           : Tensor();
  EncodedPrompt prompt = call.encode_prompt(two_prompts(options));

  const int64_t all_steps =
      call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  StepRange steps = options.denoising_start ? call.steps_from(*options.denoising_start)
                                            : call.last_steps(all_steps, options.strength);
  const std::optional<int64_t> end = call.end_step(options.denoising_end, steps.start);
  if (end) steps.count = *end - steps.start;
  const Tensor start = starting_latents(call, options, image, prompt.batch_size, steps.start);

  const int64_t scale = call.vae_scale_factor();
  const std::pair<TimeIds, TimeIds> ids =
      image_ids(options, {start.size(2) * scale, start.size(3) * scale}, requires_aesthetics_score());
  const char* hint = requires_aesthetics_score() ? "; requires_aesthetics_score is set"
                                                 : "; a refiner needs requires_aesthetics_score";
  const auto rows = [&](const TimeIds& row) {
    return call.time_ids(row, prompt, hint).repeat({prompt.batch_size, 1});
  };
  Tensor& time_ids = prompt.conditioning.added_cond_kwargs.time_ids;
  time_ids = prompt.is_guided ? at::cat({rows(ids.second), rows(ids.first)}) : rows(ids.first);
  DenoisingOptions denoising = denoising_options(options);
  denoising.end_step = end;
  const Tensor latents = call.denoise(in_automatic_parts(make_denoiser(call.unet()), *call.unet()), prompt,
                                      start, steps.start, steps.count, denoising);
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
