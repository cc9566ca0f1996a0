#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_base.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `StableDiffusionXLPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionXLPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Texts for the second text encoder, as many as prompts; none: the prompts.
  Texts prompt_2 = {};
  /// Height of the images, a multiple of 8 and of the autoencoder's scale; none: the UNet's sample_size times
  /// that scale.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;  ///< width of the images, as height
  int64_t num_inference_steps = 50;             ///< number of steps, at least 1
  std::vector<double> timesteps = {};  ///< replaces num_inference_steps; only if the scheduler takes them
  std::vector<double> sigmas = {};     ///< replaces num_inference_steps; only if the scheduler takes them
  /// Part of the denoising after which the run stops, above 0 and at most 1, so that a refiner can continue
  /// with the latents; none: all.
  std::optional<double> denoising_end = std::nullopt;
  double guidance_scale = 5.0;  ///< strength of the prompt; above 1 the UNet also runs without it
  /// One text for all prompts or one each; none: zeros, or empty texts without force_zeros_for_empty_prompt.
  Texts negative_prompt = {};
  Texts negative_prompt_2 = {};                       ///< for the second text encoder; none: negative_prompt
  int64_t num_images_per_prompt = 1;                  ///< at least 1
  double eta = 0.0;                                   ///< for DDIM and TCD; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< none: the global generator of the device
  /// Noise to start from, `[B, in_channels, height / scale, width / scale]`; undefined: drawn.
  Tensor latents = {};
  Tensor prompt_embeds = {};                  ///< `[prompts, L, D]` floating, replaces prompt and prompt_2
  Tensor negative_prompt_embeds = {};         ///< shape of prompt_embeds, replaces the negative prompts
  Tensor pooled_prompt_embeds = {};           ///< `[prompts, P]` floating, required with prompt_embeds
  Tensor negative_pooled_prompt_embeds = {};  ///< required with negative_prompt_embeds
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  double guidance_rescale = 0.0;                         ///< 0 to 1, see GuidanceOptions
  /// `{height, width}` of the image before it was scaled for training; none: that of the result.
  std::vector<int64_t> original_size = {};
  std::vector<int64_t> crops_coords_top_left = {0, 0};  ///< `{top, left}` of the crop in training
  std::vector<int64_t> target_size =
      {};  ///< `{height, width}` that the result is to look like; none: its own
  /// original_size of the unprompted half; none: that of the prompt. Goes together with negative_target_size.
  std::vector<int64_t> negative_original_size = {};
  /// crops_coords_top_left of the unprompted half; only with negative_original_size.
  std::vector<int64_t> negative_crops_coords_top_left = {0, 0};
  std::vector<int64_t> negative_target_size = {};  ///< target_size of the unprompted half
  /// Number of the text encoders' layers that are left out before the last but one; none: 0.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts with Stable Diffusion XL (Podell et al. 2024; Python: `StableDiffusionXLPipeline`). The
/// UNet takes the hidden states of two text encoders, pooled embeddings, and the sizes of the image.
///
/// The models are shared, not copied; the scheduler is copied as it is. A float16 autoencoder whose config
/// has force_upcast decodes in float32. No watermark is drawn. A folder may have a feature_extractor or
/// image_encoder; they are not run.
class StableDiffusionXLPipeline : public TypedPipeline<StableDiffusionXLPipeline, StableDiffusionXLBase> {
 public:
  /// The components: vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler. Text
  /// encoders and tokenizers are optional.
  static const PipelineSpec& spec();
  /// @param vae decodes latents
  /// @param text_encoder first text encoder
  /// @param text_encoder_2 second text encoder, which gives the pooled embeddings
  /// @param tokenizer tokenizer of the first encoder
  /// @param tokenizer_2 tokenizer of the second encoder
  /// @param unet predicts the noise; its addition_embed_type is "text_time"
  /// @param scheduler any scheduler
  /// @param force_zeros_for_empty_prompt see `force_zeros_for_empty_prompt()`
  /// @throws ConfigError if the autoencoder or the UNet is empty
  StableDiffusionXLPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                            const CLIPTextModelWithProjection& text_encoder_2, const CLIPTokenizer& tokenizer,
                            const CLIPTokenizer& tokenizer_2, const UNet2DConditionModel& unet,
                            const Scheduler& scheduler, bool force_zeros_for_empty_prompt = true);
  /// @param components at least "vae", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionXLPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options the arguments
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionXLPipelineOptions& options);
};

}  // namespace diffusers
