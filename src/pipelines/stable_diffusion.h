#pragma once

// A call of a Stable Diffusion pipeline: prompts in front of the parts of a LatentCall.

#include <cstdint>
#include <optional>

#include <diffusers/pipelines/stable_diffusion_base.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include "pipelines/latent_call.h"

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

/// The parts that the calls of the Stable Diffusion pipelines share.
class StableDiffusionCall : public LatentCall {
 public:
  explicit StableDiffusionCall(StableDiffusionBase& pipeline);

  /// The embeddings of the prompts, each repeated for its images.
  /// @throws ConfigError, TensorError if the options do not fit each other
  EncodedPrompt encode_prompt(const GuidedPrompt& prompt) const;

 private:
  Tensor encode_texts(const Texts& texts, int64_t max_length, std::optional<int64_t> clip_skip) const;

  // Handles of its own, so that a callback may replace the pipeline's components.
  CLIPTextModel text_encoder_;
  CLIPTokenizer tokenizer_;
};

}  // namespace internal
}  // namespace diffusers
