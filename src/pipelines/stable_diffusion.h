#pragma once

// The parts of a call of a Stable Diffusion pipeline: encoding of prompts, the guided loop, and decoding of
// latents.

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

namespace diffusers {
inline namespace internal {

/// The options of a call that concern the prompts.
struct GuidedPrompt {
  const Texts& prompt;
  const Texts& negative_prompt;
  const Tensor& prompt_embeds;
  const Tensor& negative_prompt_embeds;
  int64_t num_images_per_prompt;
  double guidance_scale;
  std::optional<int64_t> clip_skip;
};

template <class Options>
GuidedPrompt guided_prompt(const Options& options) {
  return {options.prompt,
          options.negative_prompt,
          options.prompt_embeds,
          options.negative_prompt_embeds,
          options.num_images_per_prompt,
          options.guidance_scale,
          options.clip_skip};
}

/// The inputs of the UNet that are computed from the prompts.
struct EncodedPrompt {
  int64_t batch_size;  ///< number of images
  bool is_guided;  ///< the conditioning has 2 * batch_size rows: the unconditional half, then the conditional
                   ///< half
  Conditioning conditioning;
};

/// The options of a call that concern the denoising loop.
struct DenoisingOptions {
  double guidance_scale;
  double guidance_rescale;
  double eta;
  const std::optional<Generator>& generator;
  const StepEndCallback& callback_on_step_end;
};

/// The common parts of the calls of the Stable Diffusion pipelines. During its lifetime no gradients are
/// recorded and the models are in eval mode.
class StableDiffusionCall {
 public:
  explicit StableDiffusionCall(StableDiffusionBase& pipeline);

  const AutoencoderKL& vae() const { return vae_; }
  const UNet2DConditionModel& unet() const { return unet_; }
  Scheduler& scheduler() const { return pipeline_.scheduler(); }
  /// Returns the number of pixels per latent along each side.
  int64_t vae_scale_factor() const;
  /// Returns dtype and device of the latents.
  at::TensorOptions tensor_options() const;

  /// Encodes the prompts and repeats each embedding for its images.
  /// @throws ConfigError, TensorError if the options are inconsistent
  EncodedPrompt encode_prompt(const GuidedPrompt& prompt) const;
  /// Sets the scheduler's timesteps. At most one of the custom `timesteps` and `sigmas` may be given.
  /// @return the number of steps
  int64_t set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
                        const std::vector<double>& sigmas) const;
  /// Runs the scheduler from the position `start` in its timesteps to the end.
  /// @param denoiser denoiser of one batch; guidance is added if the prompt is guided
  /// @param num_inference_steps number of steps to run
  Tensor denoise(const Denoiser& denoiser, const EncodedPrompt& prompt, const Tensor& latents, int64_t start,
                 int64_t num_inference_steps, const DenoisingOptions& options) const;
  /// Decodes latents to images, or returns the latents.
  ImagePipelineOutput decode(const Tensor& latents, OutputType output_type) const;

 private:
  Tensor encode_texts(const Texts& texts, int64_t max_length, std::optional<int64_t> clip_skip) const;
  void warn_of_truncation(const Texts& texts, int64_t max_length) const;
  Tensor guidance_scale_embedding(double guidance_scale, int64_t batch_size) const;

  StableDiffusionBase& pipeline_;
  InferenceGuard guard_;
  // Own handles, so that a callback may replace the pipeline's components.
  AutoencoderKL vae_;
  CLIPTextModel text_encoder_;
  CLIPTokenizer tokenizer_;
  UNet2DConditionModel unet_;
};

}  // namespace internal
}  // namespace diffusers
