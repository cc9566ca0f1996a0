#pragma once

#include <filesystem>
#include <string>

#include <diffusers/training/stable_diffusion_task.h>

namespace diffusers {

/// Options of an InstructPix2PixTask that are no fields of TrainingConfig.
struct InstructPix2PixTaskOptions {
  /// p, 0 to 1/3: with one random number u in [0, 1) for each sample, the instruction is dropped for u < 2 p,
  /// and the original image for p <= u < 3 p (Brooks et al. 2023, section 3.2.1). 0 drops nothing and draws
  /// nothing.
  double conditioning_dropout_prob = 0.0;
  /// Encodes each distinct instruction once, see `TextToImageTaskOptions::cache_text_embeddings`.
  bool cache_text_embeddings = false;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Trains the UNet of Stable Diffusion 1.x or 2.x to edit images, as diffusers' `train_instruct_pix2pix.py`
/// does (Brooks et al. 2023, arXiv 2211.09800). The dataset gives the edited images, the originals
/// (`Batch::original_images`) and the instructions (captions).
///
/// The UNet sees the noisy latents of the edited image, and behind them the latents of the original: the mode
/// of the VAE's posterior, without the scaling factor. It has twice as many input channels as there are
/// latents; `widened_unet` makes it. VAE and text encoder are frozen. The output folder is one for
/// `StableDiffusionInstructPix2PixPipeline`, also in Python.
///
/// Random numbers of a step, in this order: noise of the posterior of the edited images, those of
/// `DiffusionTask::draw`, then those of the dropped conditioning.
/// @code
/// auto models = TextToImageModels::from_pretrained("stable-diffusion-v1-5");
/// models.unet = InstructPix2PixTask::widened_unet(models.unet);
/// ImageFolder pairs("edits", {.resolution = 256, .caption_column = "edit_prompt", .original_image_column =
/// "input_image"}); Trainer(std::make_shared<InstructPix2PixTask>(models,
/// InstructPix2PixTaskOptions{.conditioning_dropout_prob = 0.05}),
///         {.output_dir = "pix2pix", .learning_rate = 1e-4}).train(pairs);
/// @endcode
class InstructPix2PixTask : public StableDiffusionTask {
 public:
  /// @param models are shared, not copied
  /// @param options see InstructPix2PixTaskOptions
  /// @throws ConfigError as TextToImageTask; for Stable Diffusion XL; for a UNet with other input channels;
  /// or
  ///   for a probability out of range
  explicit InstructPix2PixTask(const TextToImageModels& models, InstructPix2PixTaskOptions options = {});

  /// Makes the UNet of a training from one of text to image: a copy with twice as many input channels, whose
  /// new kernels are zero. The bias of `conv_in` is kept. Python's script draws a new one, since it makes a
  /// new layer.
  /// @param unet has as many input channels as output channels
  /// @return a new UNet on the device and in the dtype of `unet`; draws no random numbers
  /// @throws ConfigError naming the channels of another UNet
  static UNet2DConditionModel widened_unet(const UNet2DConditionModel& unet);

  /// @return the options as given
  const InstructPix2PixTaskOptions& pix2pix_options() const { return pix2pix_options_; }

  /// Checks a batch as TextToImageTask does, and its original images.
  /// @param batch as the dataset gave it
  /// @throws ConfigError for missing instructions or original images; TensorError for original images of
  /// another
  ///   shape than the edited ones
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  /// Writes the other components and model_index.json, which make `output_dir` a pipeline folder.
  /// @param output_dir holds `unet/`
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 protected:
  Draw draw(const Tensor& x0) override;
  Conditioning conditioning(const Batch& batch) override;

 private:
  InstructPix2PixTaskOptions pix2pix_options_;
  StepRows rows_;
  Tensor step_numbers_;  // [samples of the step], uniform
  Tensor kept_images_;   // [B, 1, 1, 1], 0 where the original is dropped; undefined: all are kept
};

}  // namespace diffusers
