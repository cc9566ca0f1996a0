#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/stable_diffusion_xl.h"

namespace diffusers {
namespace {

using XLOptions = StableDiffusionXLPipelineOptions;

TimeIds joined(TimeIds ids, const std::vector<double>& crop, const std::vector<double>& last) {
  ids.insert(ids.end(), crop.begin(), crop.end());
  ids.insert(ids.end(), last.begin(), last.end());
  return ids;
}

/// The time ids of the prompt, and those of the unprompted half.
std::pair<TimeIds, TimeIds> size_ids(const XLOptions& options, const std::pair<int64_t, int64_t>& size) {
  const std::vector<int64_t> own = {size.first, size.second};
  const TimeIds ids = joined(two_numbers("original_size", options.original_size, own),
                             two_numbers("crops_coords_top_left", options.crops_coords_top_left),
                             two_numbers("target_size", options.target_size, own));
  const bool has_negative = !options.negative_original_size.empty();
  require<ConfigError>(has_negative == !options.negative_target_size.empty(),
                       "negative_original_size and negative_target_size go together, one of them is missing");
  const std::vector<double> crop =
      two_numbers("negative_crops_coords_top_left", options.negative_crops_coords_top_left);
  if (has_negative)
    return {ids, joined(two_numbers("negative_original_size", options.negative_original_size), crop,
                        two_numbers("negative_target_size", options.negative_target_size))};
  require<ConfigError>(crop[0] == 0 && crop[1] == 0,
                       "negative_crops_coords_top_left is given without negative_original_size and "
                       "negative_target_size, and would have no effect");
  return {ids, ids};
}

/// The time ids of each row of the batch.
Tensor rows_of(const Tensor& ids, const Tensor& negative_ids, const EncodedPrompt& prompt) {
  // As in Python, the rows alternate, although those of the embeddings are all negative ones first. It
  // matters only for several images with other negative sizes.
  const Tensor rows = prompt.is_guided ? at::cat({negative_ids, ids}) : ids;
  return rows.repeat({prompt.batch_size, 1});
}

}  // namespace

const PipelineSpec& StableDiffusionXLPipeline::spec() {
  static const PipelineSpec spec = spec_of("StableDiffusionXLPipeline");
  return spec;
}

StableDiffusionXLPipeline::StableDiffusionXLPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
    const CLIPTextModelWithProjection& text_encoder_2, const CLIPTokenizer& tokenizer,
    const CLIPTokenizer& tokenizer_2, const UNet2DConditionModel& unet, const Scheduler& scheduler,
    bool force_zeros_for_empty_prompt)
    : StableDiffusionXLPipeline(
          components_of(vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler)) {
  set_force_zeros_for_empty_prompt(force_zeros_for_empty_prompt);
}

StableDiffusionXLPipeline::StableDiffusionXLPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionXLPipeline::operator()(const XLOptions& options) {
  const StableDiffusionXLCall call(*this);
  const std::pair<int64_t, int64_t> size = call.image_size(options.height, options.width, /*multiple=*/8);
  const std::pair<TimeIds, TimeIds> ids = size_ids(options, size);
  EncodedPrompt prompt = call.encode_prompt(two_prompts(options));
  prompt.conditioning.added_cond_kwargs.time_ids =
      rows_of(call.time_ids(ids.first, prompt, ""), call.time_ids(ids.second, prompt, ""), prompt);

  int64_t steps = call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const std::optional<int64_t> end = call.end_step(options.denoising_end, /*start=*/0);
  if (end) steps = *end;
  if (scheduler().has_begin_index()) scheduler().set_begin_index(0);
  const int64_t scale = call.vae_scale_factor();
  const Tensor noise = call.noise(
      options.latents,
      {prompt.batch_size, call.unet()->config().in_channels, size.first / scale, size.second / scale},
      options.generator);
  DenoisingOptions denoising = denoising_options(options);
  denoising.end_step = end;
  const Tensor latents = call.denoise(in_automatic_parts(make_denoiser(call.unet()), *call.unet()), prompt,
                                      noise * scheduler().init_noise_sigma(),
                                      /*start=*/0, steps, denoising);
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
