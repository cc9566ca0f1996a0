#pragma once

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// The components that the Stable Diffusion pipelines share.
class StableDiffusionBase : public DiffusionPipeline {
 public:
  AutoencoderKL& vae();           ///< encodes images to latents and decodes latents to images
  CLIPTextModel& text_encoder();  ///< turns the tokens of a prompt into hidden states
  CLIPTokenizer& tokenizer();     ///< turns prompts into tokens
  UNet2DConditionModel& unet();   ///< predicts the noise of latents

  /// Makes the autoencoder process one image of a batch at a time. Other pipelines with it see the change.
  void enable_vae_slicing();
  /// Makes the autoencoder process whole batches again.
  void disable_vae_slicing();
  /// Makes the autoencoder process large images in overlapping tiles. Other pipelines with it see the change.
  void enable_vae_tiling();
  /// Makes the autoencoder process whole images again.
  void disable_vae_tiling();

 protected:
  /// As DiffusionPipeline's constructor.
  StableDiffusionBase(const PipelineSpec& spec, PipelineComponents components);
  /// Warns if the folder has a safety checker, and keeps `requires_safety_checker` only without one.
  void take_settings(const Folder& folder) override;

  /// The spec of a class with exactly these components and a scheduler.
  static PipelineSpec spec_of(const char* class_name);
  /// The components of the constructor that Python's class has.
  static PipelineComponents components_of(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                          const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                          const Scheduler& scheduler);
};

}  // namespace diffusers
