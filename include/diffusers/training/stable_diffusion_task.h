#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/latent_encoder.h>
#include <diffusers/training/text_to_image_models.h>

namespace diffusers {

inline namespace internal {
class TextToImageParts;
}  // namespace internal

/// Options of a StableDiffusionTask.
struct StableDiffusionTaskOptions {
  /// Probability, 0 to 1, that a caption is replaced by an empty one.
  double proportion_empty_prompts = 0.0;
  /// Encodes each distinct caption once, see `TextToImageTaskOptions::cache_text_embeddings`.
  bool cache_text_embeddings = false;
  /// Records the graph of the UNet's weights. False: the UNet is frozen.
  bool train_unet = false;
  /// Records the graph of the text encoders. False: they are frozen.
  bool train_text_encoder = false;
  /// Input channels of the UNet behind the latents, which the subclass sets as
  /// `Conditioning::extra_channels`; 0 or more. The channels of an inpainting UNet do not count.
  int64_t extra_channels = 0;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Base of the tasks that train a part of Stable Diffusion 1.x, 2.x or XL on images with captions:
/// TextToImageTask, ControlNetTask, T2IAdapterTask, TextualInversionTask and InstructPix2PixTask.
///
/// The VAE encodes the images, and the text encoders encode the captions. A subclass gives the module that is
/// trained and the prediction. It may override `conditioning` to add inputs.
///
/// Random numbers of a step, for all its samples together, in this order: noise of the VAE's posterior, for
/// inpainting also of the masked images, then those of `DiffusionTask::draw`, then the empty captions.
class StableDiffusionTask : public DiffusionTask {
 public:
  /// @return the components
  const TextToImageModels& models() const { return models_; }

  /// @return the VAE, and the text encoders and the UNet unless they are trained
  std::vector<NamedModule> frozen() const override;
  /// Reads the options of the training. `gradient_checkpointing` also applies to the frozen UNet, which
  /// gradients flow through, and to text encoders that are trained.
  /// @param config options of the training
  /// @throws ConfigError as DiffusionTask
  void configure(const TrainingConfig& config) override;
  /// @return as for a DiffusionTask, with the factor of the VAE
  BatchSplit batch_split() const override;
  /// Checks a batch as DiffusionTask does, and its captions, masks and sizes.
  /// @param batch as the dataset gave it
  /// @throws ConfigError for missing captions or masks; TensorError for masks of another size than the images
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  /// @return JSON of the DiffusionTask, the name of the class and `proportion_empty_prompts`
  std::string config_json() const override;

 protected:
  /// Creates a task.
  /// @param class_name name of the subclass, for messages and `config_json`
  /// @param models complete; shared, not copied
  /// @param model the trained module and the prediction; shared, not copied
  /// @param scheduler noise schedule and prediction type; copied
  /// @param options see StableDiffusionTaskOptions
  /// @param name folder of the trained module in `output_dir`
  /// @throws ConfigError naming a component that is missing, two components that do not fit, or an option
  ///   that is out of range
  StableDiffusionTask(const std::string& class_name, const TextToImageModels& models, TrainableDenoiser model,
                      const Scheduler& scheduler, const StableDiffusionTaskOptions& options,
                      std::string name);

  /// Computes the scaled latents of the images.
  Tensor encode(const Batch& batch) override;
  /// Checks the batch and calls `encode`, with the noise of the posterior from `generator`.
  /// @throws ConfigError or TensorError as `check_batch`
  Tensor encode_for_validation(const Batch& batch, const Generator& generator) override;
  /// Computes the text embeddings, for Stable Diffusion XL the time ids, and the channels of an inpainting
  /// UNet.
  Conditioning conditioning(const Batch& batch) override;
  Draw draw(const Tensor& x0) override;
  /// @return "text_encoder" and, for Stable Diffusion XL, "text_encoder_2"
  std::vector<NamedModule> text_encoders() const;
  /// Replaces captions of the batch by empty ones in the next call of `conditioning`. For a subclass that
  /// draws them itself, in `draw`.
  /// @param dropped `[B]` bool, on the device of the model
  void drop_captions(const Tensor& dropped);
  /// @return the VAE as encoder of images
  const LatentEncoder& latent_encoder() const;

 private:
  std::string class_name_;
  TextToImageModels models_;
  StableDiffusionTaskOptions caption_options_;
  std::shared_ptr<TextToImageParts> parts_;
  std::optional<Generator> validation_generator_;  // while `encode_for_validation` runs
};

}  // namespace diffusers
