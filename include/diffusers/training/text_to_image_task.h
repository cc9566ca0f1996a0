#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/training/stable_diffusion_task.h>

namespace diffusers {

/// Options of a TextToImageTask that are no fields of TrainingConfig.
struct TextToImageTaskOptions {
  /// Trains the text encoders with the UNet, as `train_dreambooth.py --train_text_encoder` does. EMA weights
  /// are kept of the UNet only.
  bool train_text_encoder = false;
  /// Probability, 0 to 1, that a caption is replaced by an empty one, for classifier-free guidance.
  double proportion_empty_prompts = 0.0;
  /// Keeps the embeddings of each distinct caption in host memory, so that the frozen text encoders encode it
  /// once (Python: `train_text_to_image_sdxl.py` computes the embeddings before the training). In float32, a
  /// caption takes 237 kB for Stable Diffusion 1.x, 315 kB for 2.x and 636 kB for XL. Each caption is encoded
  /// alone: the results are those of the option off with batches of one sample, bit for bit, and differ from
  /// those with larger batches by rounding. Not together with `train_text_encoder`.
  bool cache_text_embeddings = false;
  /// Factor, 0 or more, on the mean loss of the class images of DreamBooth, which is added to the mean loss
  /// of the instances. Only with class images (`Batch::is_prior`; see DreamBoothDataset). A weighting, such
  /// as `snr_gamma`, applies to both.
  double prior_loss_weight = 1.0;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Trains the UNet of Stable Diffusion 1.x, 2.x or XL on images with captions, as diffusers'
/// `train_text_to_image.py` and `train_text_to_image_sdxl.py` do. A UNet with mask channels is trained for
/// inpainting, on images with masks.
///
/// The caption of each image is tokenized, with padding and truncation, and encoded by the text encoders. The
/// image is encoded by the VAE. The UNet sees the latents with noise at a random timestep. VAE and text
/// encoders are frozen.
///
/// For Stable Diffusion XL the UNet also gets the time ids: `Batch::original_sizes`, `Batch::crop_top_lefts`
/// and the size of the images. A dataset without original sizes: the size of the images; without crops:
/// (0, 0).
///
/// A dataset with class images (`DreamBoothDataset`) makes it DreamBooth with prior preservation, as
/// `train_dreambooth.py` does: the loss is the mean over the instances plus `prior_loss_weight` times the
/// mean over the class images.
///
/// The UNet is trained with the noise schedule and prediction type of `models.scheduler`; a scheduler of
/// another class with betas is converted to a DDPMScheduler, as in Python. The scheduler itself is saved.
/// @code
/// auto models = TextToImageModels::from_pretrained("stable-diffusion-v1-5");
/// Trainer trainer(std::make_shared<TextToImageTask>(models),
///                 {.output_dir = "out", .train_batch_size = 1, .max_train_steps = 100,
///                  .learning_rate = 1e-5, .lr_scheduler = "constant", .lr_warmup_steps = 0});
/// trainer.train(ImageFolder("pictures", {.resolution = 512, .caption_column = "text"}));
/// @endcode
class TextToImageTask : public StableDiffusionTask {
 public:
  /// @param models are shared, not copied
  /// @param options see TextToImageTaskOptions
  /// @throws ConfigError naming a component that is missing, two components that do not fit (channels of the
  ///   latents, width of the text embeddings, size of the vocabulary) with both values, an option that is
  ///   out of range, or a component with a LoRA adapter, which the output folder would lack
  explicit TextToImageTask(const TextToImageModels& models, TextToImageTaskOptions options = {});

  /// @return the options as given
  const TextToImageTaskOptions& text_options() const { return text_options_; }

  void check_batch(const Batch& batch) override;
  StepLoss loss(const Batch& batch, std::size_t update) override;
  /// @return the UNet as "unet"; with `train_text_encoder` also "text_encoder" and "text_encoder_2"
  const std::vector<NamedModule>& trained() const override { return all_trained_; }
  /// Writes the other components and model_index.json, which make `output_dir` a pipeline folder.
  /// @param output_dir holds `unet/`
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 private:
  TextToImageTaskOptions text_options_;
  std::vector<NamedModule> all_trained_;
};

}  // namespace diffusers
