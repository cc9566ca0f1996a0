#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `StableDiffusionPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Height of the images in pixels, a multiple of 8 and of the autoencoder's scale. If height or width is
  /// nullopt, both are the UNet's sample_size times that scale, as in Python.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;  ///< width of the images in pixels, as height
  int64_t num_inference_steps = 50;             ///< number of steps, at least 1
  std::vector<double> timesteps = {};           ///< replace num_inference_steps, if the scheduler supports it
  std::vector<double> sigmas = {};              ///< replace num_inference_steps, if the scheduler supports it
  double guidance_scale = 7.5;                  ///< classifier-free guidance scale; at most 1: no guidance
  Texts negative_prompt = {};                   ///< one for each prompt; empty: empty texts
  int64_t num_images_per_prompt = 1;            ///< number of images for each prompt, at least 1
  double eta = 0.0;  ///< noise of DDIM and TCD steps; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< nullopt: global generator of the device
  /// Initial noise `[B, in_channels, height / scale, width / scale]`. Undefined: drawn from the generator.
  Tensor latents = {};
  Tensor prompt_embeds = {};           ///< `[prompts, L, D]` floating; replaces prompt
  Tensor negative_prompt_embeds = {};  ///< shape of the prompt's embeddings; replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  double guidance_rescale = 0.0;                         ///< 0 to 1, as in GuidanceOptions
  /// Number of the text encoder's last layers that are skipped, 0 to num_hidden_layers. nullopt: 0. The final
  /// layer norm is always applied.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents; empty: none
};

/// Generates images from texts (Rombach et al. 2022; Python: `StableDiffusionPipeline`).
///
/// The models are shared, not copied. The scheduler is copied; the copy has `steps_offset` 1 and
/// `clip_sample` false, as in Python. Sampling runs without gradients and in eval mode, and restores the
/// modes of the models afterwards. With a CPU generator the images equal Python's for the same seed.
///
/// Loading, saving, `to`, `from_pipe` and the scheduler are in `DiffusionPipeline` and `TypedPipeline`. If
/// a folder has a safety_checker, feature_extractor or image_encoder, it is not loaded. A safety_checker
/// causes a warning.
class StableDiffusionPipeline : public TypedPipeline<StableDiffusionPipeline, StableDiffusionBase> {
 public:
  /// @return the components: vae, text_encoder, tokenizer, unet and scheduler
  static const PipelineSpec& spec();
  /// Makes a pipeline from its components.
  /// @param vae the autoencoder, shared
  /// @param text_encoder the text encoder, shared
  /// @param tokenizer the tokenizer, copied
  /// @param unet the UNet, shared
  /// @param scheduler the scheduler, copied
  /// @throws ConfigError if a model is empty
  StableDiffusionPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                          const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                          const Scheduler& scheduler);
  /// Makes a pipeline from named components.
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionPipeline(PipelineComponents components);

  /// Generates images.
  /// @param options the arguments of the call
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError naming the option that is not valid
  /// @throws TensorError naming the tensor whose shape, dtype or range does not fit
  ImagePipelineOutput operator()(const StableDiffusionPipelineOptions& options);
};

}  // namespace diffusers
