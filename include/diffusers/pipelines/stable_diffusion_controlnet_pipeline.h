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

/// The arguments of a `StableDiffusionControlNetPipeline` call, in Python's order and with Python's defaults.
struct StableDiffusionControlNetPipelineOptions {
  Texts prompt = {};  ///< one text or several; not together with prompt_embeds
  /// Conditioning images, one tensor for each ControlNet: `.image = edges` or `.image = {edges, depth}`. Each
  /// is `[B, C, H, W]` or `[C, H, W]` floating in [0, 1], B 1 or the number of prompts.
  OneOrMany<Tensor> image = {};
  /// Height of the images; none: that of the first conditioning image. It is reduced to a multiple of the
  /// autoencoder's scale, and the conditioning images are resized to it by the nearest pixel.
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
  /// Factor of the residuals; one for all ControlNets or one each. A ControlNet whose factor is 0 is not run.
  OneOrMany<double> controlnet_conditioning_scale = 1.0;
  /// Runs the ControlNets for the prompted half of the batch only, with residuals that grow from 0.1 (full
  /// resolution) to 1. Always on if the first ControlNet has global_pool_conditions.
  bool guess_mode = false;
  /// Part of the steps after which a ControlNet begins, from 0; one for all or one each.
  OneOrMany<double> control_guidance_start = 0.0;
  /// Part of the steps after which a ControlNet ends, above its start and at most 1; one for all or one each.
  OneOrMany<double> control_guidance_end = 1.0;
  /// Number of the text encoder's last layers that are left out; none: 0, with the final layer norm.
  std::optional<int64_t> clip_skip = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step with the latents
};

/// Images from texts and conditioning images, with one ControlNet or several whose residuals are added (Zhang
/// et al. 2023; Python: `StableDiffusionControlNetPipeline`).
///
///     auto pipeline = StableDiffusionControlNetPipeline::from_pipe(stable, {{"controlnet", controlnet}});
///     auto images = pipeline({.prompt = "a cat", .image = edges}).images;
///
/// The models are shared, not copied; the scheduler is copied as it is. Otherwise as
/// `StableDiffusionPipeline`.
class StableDiffusionControlNetPipeline
    : public TypedPipeline<StableDiffusionControlNetPipeline, StableDiffusionBase> {
 public:
  /// The components: vae, text_encoder, tokenizer, unet, controlnet (ControlNetModel or
  /// MultiControlNetModel), scheduler.
  static const PipelineSpec& spec();
  /// @param vae decodes latents
  /// @param text_encoder turns the tokens of a prompt into hidden states
  /// @param tokenizer turns prompts into tokens
  /// @param unet predicts the noise
  /// @param controlnet the ControlNet
  /// @param scheduler any scheduler
  /// @throws ConfigError if a model is empty
  StableDiffusionControlNetPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                    const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                    const ControlNetModel& controlnet, const Scheduler& scheduler);
  /// @param vae decodes latents
  /// @param text_encoder turns the tokens of a prompt into hidden states
  /// @param tokenizer turns prompts into tokens
  /// @param unet predicts the noise
  /// @param controlnet at least one ControlNet; they become a MultiControlNetModel, as in Python
  /// @param scheduler any scheduler
  /// @throws ConfigError if a model is empty
  StableDiffusionControlNetPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                    const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                    const std::vector<ControlNetModel>& controlnet,
                                    const Scheduler& scheduler);
  /// @param components "vae", "text_encoder", "tokenizer", "unet", "controlnet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit StableDiffusionControlNetPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options the arguments
  /// @return images `[prompts * num_images_per_prompt, C, height, width]` in [0, 1], the images of one prompt
  ///   next to each other; or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const StableDiffusionControlNetPipelineOptions& options);

  /// The ControlNets, in the order of the conditioning images.
  std::vector<ControlNetModel> controlnets();
};

}  // namespace diffusers
