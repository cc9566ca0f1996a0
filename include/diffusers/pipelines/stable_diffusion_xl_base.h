#pragma once

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/lora_loader.h>
#include <diffusers/pipelines/textual_inversion_loader.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The components that the Stable Diffusion XL pipelines share. Text encoders and tokenizers are optional: a
/// refiner has the second ones only, and a pipeline without them takes embeddings.
class StableDiffusionXLBase : public DiffusionPipeline, public LoraLoader, public TextualInversionLoader {
 public:
  AutoencoderKL& vae();           ///< encodes images to latents and decodes latents to images
  CLIPTextModel& text_encoder();  ///< first text encoder. @throws ConfigError if it is absent
  CLIPTextModelWithProjection&
  text_encoder_2();              ///< second text encoder. @throws ConfigError if it is absent
  CLIPTokenizer& tokenizer();    ///< tokenizer of the first encoder. @throws ConfigError if it is absent
  CLIPTokenizer& tokenizer_2();  ///< tokenizer of the second encoder. @throws ConfigError if it is absent
  UNet2DConditionModel& unet();  ///< predicts the noise of latents

  /// True if the embeddings without a prompt are zeros where a call gives no negative prompt; false: those of
  /// an empty text.
  bool force_zeros_for_empty_prompt() const { return setting("force_zeros_for_empty_prompt"); }
  /// Sets it (Python: `pipe.register_to_config(force_zeros_for_empty_prompt=...)`).
  /// @param value the new value, which `save_pretrained` writes
  void set_force_zeros_for_empty_prompt(bool value) { set_setting("force_zeros_for_empty_prompt", value); }

  /// Makes the autoencoder process one image of a batch at a time. Other pipelines with it see the change.
  void enable_vae_slicing();
  /// Makes the autoencoder process whole batches again.
  void disable_vae_slicing();
  /// Makes the autoencoder process large images in overlapping tiles. Other pipelines with it see the change.
  void enable_vae_tiling();
  /// Makes the autoencoder process whole images again.
  void disable_vae_tiling();

 protected:
  LoraModules lora_modules() override;
  TextualInversionParts textual_inversion_parts() override;
  /// As DiffusionPipeline's constructor.
  StableDiffusionXLBase(const PipelineSpec& spec, PipelineComponents components);

  /// The spec of a class with exactly these components and a scheduler.
  static PipelineSpec spec_of(const char* class_name);
  /// The components of the constructor that Python's class has.
  static PipelineComponents components_of(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                          const CLIPTextModelWithProjection& text_encoder_2,
                                          const CLIPTokenizer& tokenizer, const CLIPTokenizer& tokenizer_2,
                                          const UNet2DConditionModel& unet, const Scheduler& scheduler);
};

}  // namespace diffusers
