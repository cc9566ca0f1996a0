#pragma once

// The inputs of a Stable Diffusion UNet in a training: latents of the images, embeddings of the captions, the
// time ids of Stable Diffusion XL and the mask channels of an inpainting UNet.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/data/batch.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/training/latent_encoder.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>
#include <diffusers/training/text_to_image_models.h>

#include "training/tasks/text_embedding_cache.h"

namespace diffusers {
inline namespace internal {

/// Checks that there is every component and returns them.
/// @param task name of the task, for messages
/// @throws ConfigError naming the component that is missing
TextToImageModels complete_models(TextToImageModels models, const char* task);

/// The scheduler that the UNet is trained with. As in Python's scripts, it is a DDPMScheduler for each class
/// with betas.
/// @throws ConfigError as `complete_models`
std::unique_ptr<Scheduler> training_scheduler(const TextToImageModels& models, const char* task);

class TextToImageParts {
 public:
  /// @param models complete
  /// @param trains_text_encoders records the graph of the text encoders
  /// @param proportion_empty_prompts probability that a caption is replaced by "", 0 to 1
  /// @param extra_channels input channels of a UNet behind the latents, apart from those of inpainting
  /// @throws ConfigError naming two components that do not fit, and both values
  TextToImageParts(const TextToImageModels& models, bool trains_text_encoders,
                   double proportion_empty_prompts, int64_t extra_channels = 0);

  const LatentEncoder& encoder() const { return encoder_; }
  /// Text encoders by the names of their folders.
  std::vector<NamedModule> text_encoders() const;
  /// Side of the images that the flags name; none: any.
  void set_resolution(std::optional<int64_t> resolution) { resolution_ = resolution; }

  /// Encodes each caption once, see TextEmbeddingCache.
  void cache_text_embeddings() { caches_text_embeddings_ = true; }
  /// Forgets the embeddings of captions, since a training begins.
  void clear_text_embeddings() { text_cache_.clear(); }

  void begin_step(const StepContext& context);
  /// Checks images, captions, masks, sizes and crops on the host, by their shapes.
  /// @throws TensorError or ConfigError naming the field, the expected and the actual value
  void check_batch(const Batch& batch);
  /// The scaled latents. Draws the noise of the posterior for all samples of the step, for an inpainting UNet
  /// also that of the masked images, which `conditioning` uses.
  /// @param validation replaces the generator of the step
  Tensor encode(const Batch& batch, const std::optional<Generator>& validation);
  /// Draws for all samples of the step which captions are dropped; `conditioning` uses it.
  void draw_dropped(const Tensor& x0);
  /// Sets which captions are dropped, instead of `draw_dropped`.
  /// @param dropped `[B]` bool
  void set_dropped(const Tensor& dropped) { dropped_ = dropped; }
  /// Adds the text embeddings, the time ids and the mask channels.
  /// @param given other inputs, such as class labels
  Conditioning conditioning(const Batch& batch, Conditioning given);

 private:
  Tensor masked_channels(const Batch& batch, const Tensor& images, const Tensor& noise) const;
  Tensor token_ids(const CLIPTokenizer& tokenizer, const Batch& batch, const Tensor& dropped,
                   Tensor& empty_ids, Tensor* attention_mask);
  void warn_of_truncation(const CLIPTokenizer& tokenizer, const Batch& batch, const Tensor& attended);
  void encode_captions(const Batch& batch, const Tensor& dropped, Conditioning& conditioning);
  void find_captions(const Batch& batch, const Tensor& dropped, Conditioning& conditioning);
  Tensor time_ids(const Batch& batch) const;

  TextToImageModels models_;
  LatentEncoder encoder_;
  bool is_xl_ = false;
  bool is_inpainting_ = false;
  bool trains_text_encoders_ = false;
  double proportion_empty_prompts_ = 0.0;
  std::optional<int64_t> resolution_;
  bool caches_text_embeddings_ = false;
  TextEmbeddingCache text_cache_;
  bool has_warned_of_masks_ = false;
  bool has_warned_of_truncation_ = false;

  StepContext context_;
  StepRows posterior_rows_, dropout_rows_;
  Tensor posterior_noise_, masked_noise_;  // of all samples of the step
  Tensor step_dropped_;                    // [samples of the step] bool
  Tensor dropped_;                         // of the batch that was drawn last; undefined: none
  Tensor extra_channels_;                  // of the batch that was encoded last; undefined: none
  Tensor empty_ids_, empty_ids_2_;         // [1, L], the tokens of ""
};

}  // namespace internal
}  // namespace diffusers
