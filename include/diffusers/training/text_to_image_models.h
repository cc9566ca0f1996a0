#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/model.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

namespace diffusers {

/// A copy of a scheduler of any class, as a field of an aggregate. A value: copies share the scheduler, which
/// does not change.
class SchedulerValue {
 public:
  /// No scheduler.
  SchedulerValue() = default;
  // NOLINTBEGIN(google-explicit-constructor): a scheduler is written where a SchedulerValue is expected.
  /// Copies a scheduler.
  /// @param scheduler any class
  SchedulerValue(const Scheduler& scheduler) : scheduler_(scheduler.clone()) {}
  /// Takes over a scheduler, such as the result of `Scheduler::from_pretrained`.
  /// @param scheduler null: no scheduler
  SchedulerValue(std::unique_ptr<Scheduler> scheduler) : scheduler_(std::move(scheduler)) {}
  // NOLINTEND(google-explicit-constructor)

  /// @return false without a scheduler
  bool has_value() const { return scheduler_ != nullptr; }
  /// @return the scheduler; there must be one
  const Scheduler& operator*() const { return *scheduler_; }
  /// @return the scheduler; there must be one
  const Scheduler* operator->() const { return scheduler_.get(); }

 private:
  std::shared_ptr<const Scheduler> scheduler_;
};

/// The components of a Stable Diffusion folder, by the names of its sub-folders. Models are shared, not
/// copied.
struct TextToImageModels {
  CLIPTokenizer tokenizer = CLIPTokenizer();      ///< turns captions into tokens
  CLIPTextModel text_encoder = nullptr;           ///< turns tokens into hidden states
  AutoencoderKL vae = nullptr;                    ///< turns images into latents
  UNet2DConditionModel unet = nullptr;            ///< predicts the noise of latents
  SchedulerValue scheduler = SchedulerValue();    ///< noise schedule and prediction type
  std::optional<CLIPTokenizer> tokenizer_2 = {};  ///< Stable Diffusion XL: tokenizer of `text_encoder_2`
  CLIPTextModelWithProjection text_encoder_2 = nullptr;  ///< Stable Diffusion XL: the second text encoder
  /// Stable Diffusion XL: whether an empty negative prompt becomes zeros when sampling; for model_index.json.
  bool force_zeros_for_empty_prompt = true;

  /// @return true for the components of Stable Diffusion XL: the UNet takes pooled text embeddings and time
  ///   ids (`addition_embed_type` "text_time")
  bool is_xl() const;
  /// @return true for an inpainting UNet, whose input channels are latents, mask and masked-image latents
  bool is_inpainting() const;

  /// Loads the components of a pipeline folder of Stable Diffusion 1.x, 2.x or XL, also of an inpainting or
  /// image-to-image pipeline. Safety checker, feature extractor and image encoder are left out.
  /// @param folder with model_index.json
  /// @param options variant, dtype and device; `subfolder` is a folder in `folder`
  /// @return the components, the models in eval mode
  /// @throws FileError naming the component that is missing or of another class, or the damaged file
  static TextToImageModels from_pretrained(const std::filesystem::path& folder,
                                           const ModelLoadOptions& options = {});
  /// Writes model_index.json and a sub-folder for each component. Python opens the folder with
  /// `StableDiffusionPipeline`, `StableDiffusionInpaintPipeline` or `StableDiffusionXLPipeline`.
  /// @param folder created if it does not exist
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder) const;
};

}  // namespace diffusers
