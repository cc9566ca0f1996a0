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
  /// Height of the images, a multiple of 8 and of the autoencoder's scale. If height or width is not given,
  /// both are the UNet's sample_size times that scale, as in Python.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;  ///< width of the images, as height
  int64_t num_inference_steps = 50;             ///< number of steps, at least 1
  std::vector<double> timesteps = {};  ///< replaces num_inference_steps; only if the scheduler takes them
  std::vector<double> sigmas = {};     ///< replaces num_inference_steps; only if the scheduler takes them
  double guidance_scale = 7.5;         ///< strength of the prompt; above 1 the UNet also runs without it
  Texts negative_prompt = {};          ///< as many as prompts; none: empty texts
  int64_t num_images_per_prompt = 1;   ///< at least 1
  double eta = 0.0;                    ///< for DDIM and TCD; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;  ///< none: the global generator of the device
  /// Noise to start from, `[B, in_channels, height / scale, width / scale]`; undefined: drawn.
  Tensor latents = {};
  Tensor prompt_embeds = {};           ///< `[prompts, L, D]` floating, replaces prompt
  Tensor negative_prompt_embeds = {};  ///< shape of the prompt's embeddings, replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  double guidance_rescale = 0.0;                         ///< 0 to 1, see GuidanceOptions
  /// Number of the text encoder's last layers that are left out; none: 0, with the final layer norm.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts (Rombach et al. 2022; Python: `StableDiffusionPipeline`).
///
/// The models are shared, not copied; the scheduler is copied, with `steps_offset` 1 and without
/// `clip_sample`, as in Python. Sampling runs without gradients and in eval mode, and then gives the models
/// their modes back. With a CPU generator the images equal Python's for the same seed.
///
/// Loading, saving, `to`, `from_pipe` and the scheduler are in `DiffusionPipeline` and `TypedPipeline`. A
/// folder may have a safety_checker, feature_extractor or image_encoder; they are not run, and a safety
/// checker causes a warning.
class StableDiffusionPipeline : public TypedPipeline<StableDiffusionPipeline, StableDiffusionBase> {
 public:
  /// The components: vae, text_encoder, tokenizer, unet, scheduler.
  static const PipelineSpec& spec();
  /// @throws ConfigError if a model is empty
  StableDiffusionPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                          const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                          const Scheduler& scheduler);
  /// @param components "vae", "text_encoder", "tokenizer", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionPipeline(PipelineComponents components);

  /// Draws images.
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionPipelineOptions& options);
};

}  // namespace diffusers
