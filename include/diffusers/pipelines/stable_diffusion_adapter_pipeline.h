#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/one_or_many.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `StableDiffusionAdapterPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionAdapterPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Conditioning images, one tensor for each adapter: `.image = edges` or `.image = {edges, depth}`. Each is
  /// `[B, C, H, W]` or `[C, H, W]` floating, B 1 or the number of prompts, C the adapter's in_channels. They
  /// are passed to the adapters as they are.
  OneOrMany<Tensor> image = {};
  /// Height of the images; none: that of the conditioning images. Another value than theirs is an error.
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
  Tensor prompt_embeds = {};                             ///< `[prompts, L, D]` floating, replaces prompt
  Tensor negative_prompt_embeds = {};                    ///< shape of the prompt's, replaces negative_prompt
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  /// Factor of the features; one for all adapters or one each.
  OneOrMany<double> adapter_conditioning_scale = 1.0;
  /// Number of the text encoder's last layers that are left out; none: 0, with the final layer norm.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts and conditioning images, with one T2I-adapter or several whose features are added (Mou
/// et al. 2023; Python: `StableDiffusionAdapterPipeline`).
///
///     auto pipeline = StableDiffusionAdapterPipeline::from_pipe(stable, {{"adapter", adapter}});
///     auto images = pipeline({.prompt = "a cat", .image = edges}).images;
///
/// The models are shared, not copied; the scheduler is copied as it is. Otherwise as
/// `StableDiffusionPipeline`.
class StableDiffusionAdapterPipeline
    : public TypedPipeline<StableDiffusionAdapterPipeline, StableDiffusionBase> {
 public:
  /// The components: vae, text_encoder, tokenizer, unet, adapter (T2IAdapter or MultiAdapter), scheduler.
  static const PipelineSpec& spec();
  /// @param vae decodes latents
  /// @param text_encoder turns the tokens of a prompt into hidden states
  /// @param tokenizer turns prompts into tokens
  /// @param unet predicts the noise
  /// @param adapter makes features of the conditioning image
  /// @param scheduler any scheduler
  /// @throws ConfigError if a model is empty
  StableDiffusionAdapterPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                 const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                 const T2IAdapter& adapter, const Scheduler& scheduler);
  /// @param components "vae", "text_encoder", "tokenizer", "unet", "adapter" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionAdapterPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options the arguments
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionAdapterPipelineOptions& options);

  /// The adapters, in the order of the conditioning images.
  std::vector<T2IAdapter> adapters();
};

}  // namespace diffusers
