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

/// The arguments of a `StableDiffusionXLImg2ImgPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionXLImg2ImgPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Texts for the second text encoder, as many as prompts; none: the prompts.
  Texts prompt_2 = {};
  /// Images to start from, `[B, C, H, W]` or `[C, H, W]` floating in [0, 1]. The sides are reduced to
  /// multiples of the autoencoder's scale. Values below 0 warn and mean [-1, 1]. 4 channels mean latents. B
  /// divides the number of images to draw.
  Tensor image = {};
  double strength = 0.3;  ///< part of the steps that is run, above 0 and at most 1; not with denoising_start
  int64_t num_inference_steps = 50;    ///< number of steps for strength 1, at least 1
  std::vector<double> timesteps = {};  ///< replaces num_inference_steps; only if the scheduler takes them
  std::vector<double> sigmas = {};     ///< replaces num_inference_steps; only if the scheduler takes them
  /// Part of the denoising that has been done, between 0 and 1: the run continues with the image, usually
  /// latents of a base model, and adds no noise. None: strength says where the run begins.
  std::optional<double> denoising_start = std::nullopt;
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
  /// Noisy latents to start from in place of those of the image, `[B, in_channels, h, w]`; undefined: made
  /// from the image.
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
  /// `{height, width}` that the result is to look like; none: its own. Not with requires_aesthetics_score.
  std::vector<int64_t> target_size = {};
  std::vector<int64_t> negative_original_size = {};  ///< of the unprompted half; none: original_size
  /// Crop of the unprompted half; only with requires_aesthetics_score, otherwise that of the prompt.
  std::vector<int64_t> negative_crops_coords_top_left = {0, 0};
  std::vector<int64_t> negative_target_size = {};  ///< of the unprompted half; none: target_size
  double aesthetic_score = 6.0;  ///< score of the result; only with requires_aesthetics_score
  double negative_aesthetic_score =
      2.5;  ///< score of the unprompted half; only with requires_aesthetics_score
  /// Number of the text encoders' layers that are left out before the last but one; none: 0.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts and images with Stable Diffusion XL, also as the refiner of a base model (Podell et al.
/// 2024; Python: `StableDiffusionXLImg2ImgPipeline`). Otherwise as `StableDiffusionXLPipeline`, whose folders
/// it loads:
///
///     auto latents = base({.prompt = "a cat", .denoising_end = 0.8, .output_type = "latent"}).images;
///     auto images = refiner({.prompt = "a cat", .image = latents, .denoising_start = 0.8}).images;
class StableDiffusionXLImg2ImgPipeline
    : public TypedPipeline<StableDiffusionXLImg2ImgPipeline, StableDiffusionXLBase> {
 public:
  /// The components: vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler. Text
  /// encoders and tokenizers are optional.
  static const PipelineSpec& spec();
  /// @param vae encodes images and decodes latents
  /// @param text_encoder first text encoder
  /// @param text_encoder_2 second text encoder, which gives the pooled embeddings
  /// @param tokenizer tokenizer of the first encoder
  /// @param tokenizer_2 tokenizer of the second encoder
  /// @param unet predicts the noise; its addition_embed_type is "text_time"
  /// @param scheduler any scheduler with `add_noise`
  /// @param requires_aesthetics_score see `requires_aesthetics_score()`
  /// @param force_zeros_for_empty_prompt see `force_zeros_for_empty_prompt()`
  /// @throws ConfigError if the autoencoder or the UNet is empty
  StableDiffusionXLImg2ImgPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                   const CLIPTextModelWithProjection& text_encoder_2,
                                   const CLIPTokenizer& tokenizer, const CLIPTokenizer& tokenizer_2,
                                   const UNet2DConditionModel& unet, const Scheduler& scheduler,
                                   bool requires_aesthetics_score = false,
                                   bool force_zeros_for_empty_prompt = true);
  /// @param components at least "vae", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionXLImg2ImgPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options the arguments
  /// @return images `[prompts * num_images_per_prompt, C, H, W]` in [0, 1], the images of one prompt next to
  ///   each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionXLImg2ImgPipelineOptions& options);

  /// Returns true if the UNet takes an aesthetic score in place of the target size, as a refiner does.
  bool requires_aesthetics_score() const { return setting("requires_aesthetics_score"); }
  /// Sets it (Python: `pipe.register_to_config(requires_aesthetics_score=...)`).
  /// @param value the new value, which `save_pretrained` writes
  void set_requires_aesthetics_score(bool value) { set_setting("requires_aesthetics_score", value); }
};

}  // namespace diffusers
