#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/models/lora.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/text_to_image_models.h>

namespace diffusers {

inline namespace internal {
class TextToImageParts;
}  // namespace internal

/// Options of a TextToImageLoraTask that are no fields of TrainingConfig.
struct TextToImageLoraTaskOptions {
  /// The UNet's adapter, by default that of Python's script. Not used if the UNet already has an adapter.
  LoraConfig unet_lora = {.r = 4,
                          .lora_alpha = 4,
                          .init_lora_weights = "gaussian",
                          .target_modules = {"to_k", "to_q", "to_v", "to_out.0"}};
  /// Also trains adapters of the text encoders.
  bool train_text_encoder = false;
  /// The text encoders' adapters, by default those of Python's scripts. Not used for a text encoder that
  /// already has an adapter.
  LoraConfig text_encoder_lora = {.r = 4,
                                  .lora_alpha = 4,
                                  .init_lora_weights = "gaussian",
                                  .target_modules = {"q_proj", "k_proj", "v_proj", "out_proj"}};
  /// Probability, 0 to 1, that a caption is replaced by an empty one.
  double proportion_empty_prompts = 0.0;
  /// Encodes each distinct caption once, see `TextToImageTaskOptions::cache_text_embeddings`.
  bool cache_text_embeddings = false;
  /// Factor, 0 or more, on the mean loss of the class images of DreamBooth, which is added to the mean loss
  /// of the instances. Only with class images (`Batch::is_prior`; see DreamBoothDataset). A weighting, such
  /// as `snr_gamma`, applies to both.
  double prior_loss_weight = 1.0;
  /// Weighting, timestep sampling and other options of the loss; `conditioning` must be empty.
  DiffusionTaskOptions diffusion = {};
};

/// Trains LoRA adapters of Stable Diffusion 1.x, 2.x or XL, or of an inpainting UNet, as diffusers'
/// `train_text_to_image_lora.py` and `train_text_to_image_lora_sdxl.py` do. All weights of the models are
/// frozen. The dataset gives images and captions. With class images (`DreamBoothDataset`) it is DreamBooth,
/// as `train_dreambooth_lora.py` and `train_dreambooth_lora_sdxl.py` train it.
///
/// The adapters that the models do not have yet are added when the task is made, and draw from the CPU's
/// global generator: call `manual_seed` before. The models are those that are given, so they have the
/// adapters afterwards. The training writes `pytorch_lora_weights.safetensors` into the output folder and
/// into the folder of each adapter of each checkpoint.
class TextToImageLoraTask : public DiffusionTask {
 public:
  /// Adds adapters to the models.
  /// @param models all components; for Stable Diffusion XL also the second tokenizer and text encoder
  /// @param options adapters and options of the loss
  /// @throws ConfigError if a component is missing, two do not fit, an adapter's config is not supported, or
  /// a
  ///   model has several adapters, fused or disabled ones
  explicit TextToImageLoraTask(TextToImageModels models, TextToImageLoraTaskOptions options = {});

  /// @return the models
  const TextToImageModels& models() const { return models_; }
  /// @return the options
  const TextToImageLoraTaskOptions& lora_options() const { return lora_options_; }

  const std::vector<NamedModule>& trained() const override { return all_trained_; }
  std::vector<NamedModule> frozen() const override;
  void configure(const TrainingConfig& config) override;
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  StepLoss loss(const Batch& batch, std::size_t update) override;
  void save_extras(const std::filesystem::path& output_dir) const override;
  std::string config_json() const override;

 protected:
  Tensor encode(const Batch& batch) override;
  Tensor encode_for_validation(const Batch& batch, const Generator& generator) override;
  Conditioning conditioning(const Batch& batch) override;
  Draw draw(const Tensor& x0) override;
  void save_pipeline_files(const std::filesystem::path& output_dir) const override;

 private:
  TextToImageModels models_;
  TextToImageLoraTaskOptions lora_options_;
  std::shared_ptr<TextToImageParts> parts_;
  std::vector<NamedModule> all_trained_;
};

}  // namespace diffusers
