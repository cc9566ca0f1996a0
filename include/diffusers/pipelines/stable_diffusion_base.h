#pragma once

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/lora_loader.h>
#include <diffusers/pipelines/textual_inversion_loader.h>
#include <diffusers/text/clip_tokenizer.h>
#include <diffusers/text/fwd.h>

namespace diffusers {

/// Base of the Stable Diffusion pipelines, with the components that they share.
class StableDiffusionBase : public DiffusionPipeline, public LoraLoader, public TextualInversionLoader {
 public:
  AutoencoderKL& vae();           ///< encodes images to latents and decodes latents to images
  CLIPTextModel& text_encoder();  ///< computes the hidden states of a prompt's tokens
  CLIPTokenizer& tokenizer();     ///< computes the tokens of prompts
  UNet2DConditionModel& unet();   ///< predicts from noisy latents

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
  /// Makes a pipeline from its components, as DiffusionPipeline.
  /// @param spec the pipeline class; must outlive the pipeline
  /// @param components one for each component of the class
  /// @throws ConfigError naming the component that is missing, empty, of another class or not taken
  StableDiffusionBase(const PipelineSpec& spec, PipelineComponents components);
  /// Takes over the settings of a folder. If it has a safety checker, warns and sets
  /// `requires_safety_checker` to false.
  /// @param folder the folder that was loaded
  void take_settings(const Folder& folder) override;

  /// Describes a pipeline class with these components and a scheduler.
  /// @param class_name Python's name of the class
  /// @return the description
  static PipelineSpec spec_of(const char* class_name);
  /// Names the arguments of the constructor of Python's class.
  /// @param vae "vae"
  /// @param text_encoder "text_encoder"
  /// @param tokenizer "tokenizer"
  /// @param unet "unet"
  /// @param scheduler "scheduler"
  /// @return the components by name
  static PipelineComponents components_of(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                          const CLIPTokenizer& tokenizer, const UNet2DConditionModel& unet,
                                          const Scheduler& scheduler);
};

}  // namespace diffusers
