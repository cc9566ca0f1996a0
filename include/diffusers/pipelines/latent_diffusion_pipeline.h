#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The arguments of a `LatentDiffusionPipeline` call: what the UNet was trained with, and how to draw.
struct LatentDiffusionPipelineOptions {
  /// Number of images. None: the rows of the conditioning that is given, 1 without any.
  std::optional<int64_t> batch_size = std::nullopt;
  Tensor class_labels = {};   ///< `[B]` int64, for conditioning_key "adm"
  Texts prompt = {};          ///< B texts, for a pipeline with a text encoder
  Tensor prompt_embeds = {};  ///< `[B, L, D]`, hidden states for the cross-attention, replaces prompt
  /// Shape of the hidden states, or `[1, L, D]`: what guidance compares with. Undefined: those of the empty
  /// text; required for guidance with prompt_embeds and without a text encoder.
  Tensor negative_prompt_embeds = {};
  Tensor conditioning_images = {};  ///< `[B, C, H, W]` in [0, 1], for "concat" and "hybrid"
  Tensor image = {};                ///< `[B, C, H, W]` in [0, 1], of which a part is inpainted
  Tensor mask_image = {};           ///< `[B, 1, H, W]`, 1 where the image is inpainted
  /// Height of the images, a multiple of the autoencoder's scale. None: that of the images that are given,
  /// else the UNet's sample_size times that scale.
  std::optional<int64_t> height = std::nullopt;
  std::optional<int64_t> width = std::nullopt;  ///< width of the images, as height
  int64_t num_inference_steps = 50;             ///< number of steps, at least 1
  /// Strength of the conditioning; above 1 the UNet also runs without it: with the class
  /// `num_class_embeds - 1`, negative hidden states, and zeros in the place of images.
  double guidance_scale = 1.0;
  double eta = 0.0;                                      ///< for DDIM and TCD; other schedulers do not use it
  std::optional<Generator> generator = std::nullopt;     ///< none: the global generator of the device
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  StepEndCallback callback_on_step_end = {};             ///< called after each step with the latents
};

/// Draws with a conditional latent diffusion model, as LatentDiffusionTask trains it: class labels, hidden
/// states, images in channels behind the latents, inpainting. Python's library has no such pipeline; Python
/// opens the components one by one.
///
/// The models are shared, not copied; the scheduler is copied, without `clip_sample`, since latents exceed
/// [-1, 1]. Random numbers are drawn in this order: the noise to start from, the posterior noise of the
/// masked image, the noise of each step.
class LatentDiffusionPipeline : public TypedPipeline<LatentDiffusionPipeline> {
 public:
  /// The components: vae (AutoencoderKL or VQModel), unet (UNet2DModel or UNet2DConditionModel), scheduler,
  /// and, optional, text_encoder and tokenizer. The setting `encodes_conditioning_images`.
  /// @return the spec
  static const PipelineSpec& spec();
  /// @param components as `{{"vae", vae}, {"unet", unet}, {"scheduler", ddim}}`
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit LatentDiffusionPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options see LatentDiffusionPipelineOptions
  /// @return images `[B, C, height, width]` in [0, 1], or their latents
  /// @throws ConfigError or TensorError naming the option that does not fit the others or the models
  ImagePipelineOutput operator()(const LatentDiffusionPipelineOptions& options = {});

  /// Sets how the UNet receives conditioning images.
  /// @param encodes true: as latents of the autoencoder; false: averaged down to the size of the latents
  void set_encodes_conditioning_images(bool encodes);
  /// @return how the UNet receives conditioning images
  bool encodes_conditioning_images() const;
};

}  // namespace diffusers
