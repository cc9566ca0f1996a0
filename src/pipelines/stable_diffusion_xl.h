#pragma once

// A call of a Stable Diffusion XL pipeline: prompts for two text encoders, the micro-conditioning, and an
// autoencoder that is upcast.

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/pipelines/stable_diffusion_xl_base.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include "pipelines/latent_call.h"

namespace diffusers {
inline namespace internal {

/// The options of a call that say what to draw.
struct TwoPrompts {
  const Texts& prompt;
  const Texts& prompt_2;
  const Texts& negative_prompt;
  const Texts& negative_prompt_2;
  const Tensor& prompt_embeds;
  const Tensor& negative_prompt_embeds;
  const Tensor& pooled_prompt_embeds;
  const Tensor& negative_pooled_prompt_embeds;
  int64_t num_images_per_prompt;
  double guidance_scale;
  std::optional<int64_t> clip_skip;
};

template <class Options>
TwoPrompts two_prompts(const Options& options) {
  return {options.prompt,
          options.prompt_2,
          options.negative_prompt,
          options.negative_prompt_2,
          options.prompt_embeds,
          options.negative_prompt_embeds,
          options.pooled_prompt_embeds,
          options.negative_pooled_prompt_embeds,
          options.num_images_per_prompt,
          options.guidance_scale,
          options.clip_skip};
}

/// Numbers of one row of time_ids: sizes, crop, and a size or a score.
using TimeIds = std::vector<double>;

/// The two numbers of an option, as doubles.
/// @throws ConfigError unless it has two elements, or none where `fallback` replaces it
std::vector<double> two_numbers(const char* name, const std::vector<int64_t>& values,
                                const std::vector<int64_t>& fallback = {});

/// The parts that the calls of both pipelines share.
class StableDiffusionXLCall : public LatentCall {
 public:
  explicit StableDiffusionXLCall(StableDiffusionXLBase& pipeline);

  /// The embeddings of the prompts and the pooled ones, each repeated for its images. The time ids are not
  /// set yet.
  /// @throws ConfigError, TensorError if the options do not fit each other or the text encoders
  EncodedPrompt encode_prompt(const TwoPrompts& prompt) const;
  /// Checks that the number of time ids fits the UNet, and converts them.
  /// @return `[1, n]`
  /// @throws ConfigError naming both numbers
  Tensor time_ids(const TimeIds& ids, const EncodedPrompt& prompt, const char* hint) const;

  /// Number of training timesteps that are left after the part `denoised` of the denoising.
  double cutoff(const char* name, double denoised) const;
  /// Position in timesteps() at which `denoising_end` stops a run that begins at `start`; none: at the end.
  /// @throws ConfigError if no step is left
  std::optional<int64_t> end_step(const std::optional<double>& denoising_end, int64_t start) const;
  /// The steps from `denoising_start`; tells the scheduler where they begin.
  /// @throws ConfigError if no step is left
  StepRange steps_from(double denoising_start) const;

  /// As LatentCall's, with the latents' mean and deviation, and in float32 if the config has force_upcast.
  Tensor encode_image(const Tensor& images, const std::optional<Generator>& generator) const;
  /// As LatentCall's, with the latents' mean and deviation. A float16 autoencoder whose config has
  /// force_upcast runs in float32, and so are the images.
  ImagePipelineOutput decode(const Tensor& latents, OutputType output_type) const;

 private:
  struct Embeds {
    Tensor states;
    Tensor pooled;  ///< undefined if no encoder gives one
  };
  Embeds encode_texts(const Texts& prompt, const Texts& prompt_2, std::optional<int64_t> max_length,
                      int64_t clip_skip) const;
  Embeds negative_embeds(const TwoPrompts& prompt, const Embeds& positive) const;
  void check_prompts(const TwoPrompts& prompt) const;

  bool force_zeros_;
  // Separate handles, so that a callback may replace the pipeline's components.
  CLIPTextModel text_encoder_{nullptr};
  CLIPTextModelWithProjection text_encoder_2_{nullptr};
  std::optional<CLIPTokenizer> tokenizer_;
  std::optional<CLIPTokenizer> tokenizer_2_;
};

}  // namespace internal
}  // namespace diffusers
