#pragma once

// What the Stable Diffusion pipelines have in common: components, their folder, prompts, the guided loop, and
// the way back from latents to images.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include "pipelines/components.h"

namespace diffusers {

/// The part of a call's options that says what to draw.
struct GuidedPrompt {
  const Texts& prompt;
  const Texts& negative_prompt;
  const Tensor& prompt_embeds;
  const Tensor& negative_prompt_embeds;
  int64_t num_images_per_prompt;
  double guidance_scale;
  std::optional<int64_t> clip_skip;
};

/// What the UNet is given besides the latents.
struct PromptConditioning {
  bool is_guided;        ///< the UNet runs on two halves, the first of them without the prompt
  int64_t batch_size;    ///< of the latents
  Tensor embeds;         ///< `[batch_size (twice if guided), L, D]`
  Tensor timestep_cond;  ///< of a UNet with time_cond_proj_dim, which takes the guidance scale as an input
};

/// The part of a call's options that says how to draw it.
struct DenoisingOptions {
  double guidance_scale;
  double guidance_rescale;
  double eta;
  const std::optional<Generator>& generator;
  const StepEndCallback& callback_on_step_end;
};

struct StableDiffusionParts {
  AutoencoderKL vae;
  CLIPTextModel text_encoder;
  CLIPTokenizer tokenizer;
  UNet2DConditionModel unet;
  std::unique_ptr<Scheduler> scheduler;
  /// Of the folder's index, kept for saving: Python then says that there is no safety checker.
  bool requires_safety_checker = false;
  ProgressBarConfig progress_bar = {};

  /// @throws ConfigError if a model is empty
  static std::unique_ptr<StableDiffusionParts> make(const AutoencoderKL& vae,
                                                    const CLIPTextModel& text_encoder,
                                                    const CLIPTokenizer& tokenizer,
                                                    const UNet2DConditionModel& unet,
                                                    const Scheduler& scheduler, std::string_view class_name);
  static std::unique_ptr<StableDiffusionParts> load(const std::filesystem::path& folder,
                                                    const PipelineLoadOptions& options,
                                                    std::string_view class_name);
  void save(const std::filesystem::path& folder, std::string_view class_name) const;

  /// Takes a copy of the scheduler with the corrections that Python's constructor makes to its config.
  void set_scheduler(const Scheduler& given);

  /// How many pixels a latent spans.
  int64_t vae_scale_factor() const;
  at::TensorOptions tensor_options() const;

  /// The embeddings of prompts, checked against each other.
  PromptConditioning condition(const GuidedPrompt& prompt) const;
  /// Sets the scheduler's timesteps; of custom ones only one kind may be given.
  /// @return the number of steps
  int64_t set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
                        const std::vector<double>& sigmas);
  /// Runs the scheduler from the position `start` in its timesteps to their end.
  Tensor denoise(const PromptConditioning& conditioning, Tensor latents, int64_t start,
                 int64_t num_inference_steps, const DenoisingOptions& options);
  ImagePipelineOutput finish(const Tensor& latents, OutputType output_type) const;

 private:
  Tensor encode_texts(const Texts& texts, int64_t max_length, std::optional<int64_t> clip_skip) const;
  void warn_of_truncation(const Texts& texts, int64_t max_length) const;
  Tensor guidance_scale_embedding(double guidance_scale, int64_t batch_size) const;
};

/// Keeps the models of a pipeline in eval mode during a call.
class StableDiffusionEvalGuard {
 public:
  explicit StableDiffusionEvalGuard(StableDiffusionParts& parts)
      : vae_(*parts.vae), text_encoder_(*parts.text_encoder), unet_(*parts.unet) {}

 private:
  EvalGuard vae_;
  EvalGuard text_encoder_;
  EvalGuard unet_;
};

}  // namespace diffusers
