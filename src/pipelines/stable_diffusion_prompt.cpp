// Encodes prompts to the conditioning of the UNet.

#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/prompt_inputs.h"
#include "pipelines/stable_diffusion.h"
#include "text/prompt_encoding.h"

namespace diffusers {
inline namespace internal {
namespace {

void check_prompt(const GuidedPrompt& prompt) {
  const bool has_prompt = !prompt.prompt.values().empty();
  require<ConfigError>(!has_prompt || !prompt.prompt_embeds.defined(),
                       "prompt and prompt_embeds are both given, expected one of them");
  require<ConfigError>(has_prompt || prompt.prompt_embeds.defined(),
                       "neither prompt nor prompt_embeds is given, expected one of them");
  refuse_both("negative_prompt", prompt.negative_prompt, "negative_prompt_embeds",
              prompt.negative_prompt_embeds);
  require<ConfigError>(prompt.num_images_per_prompt > 0, "num_images_per_prompt is {}, expected at least 1",
                       prompt.num_images_per_prompt);
  check_prompt_embeds("prompt_embeds", prompt.prompt_embeds);
  check_prompt_embeds("negative_prompt_embeds", prompt.negative_prompt_embeds);
}

}  // namespace

StableDiffusionCall::StableDiffusionCall(StableDiffusionBase& pipeline)
    : LatentCall(pipeline), text_encoder_(pipeline.text_encoder()), tokenizer_(pipeline.tokenizer()) {}

Tensor StableDiffusionCall::encode_texts(const Texts& texts, int64_t max_length,
                                         std::optional<int64_t> clip_skip) const {
  const BatchEncoding tokens = tokenize_prompts(tokenizer_, texts, max_length);
  const at::Device device = text_encoder_->parameters().front().device();
  Tensor attention_mask;
  if (text_encoder_->use_attention_mask()) attention_mask = tokens.attention_mask.to(device);
  return encode_tokens(text_encoder_, tokens.input_ids.to(device), attention_mask, clip_skip);
}

EncodedPrompt StableDiffusionCall::encode_prompt(const GuidedPrompt& prompt) const {
  check_prompt(prompt);
  const at::TensorOptions options = tensor_options();
  const bool guided = is_guided(prompt.guidance_scale);

  Tensor embeds = prompt.prompt_embeds;
  if (!embeds.defined()) {
    const int64_t max_length = tokenizer_.model_max_length();
    const Texts texts = maybe_convert_prompt(prompt.prompt, tokenizer_);
    warn_of_truncation(tokenizer_, texts, max_length);
    embeds = encode_texts(texts, max_length, prompt.clip_skip);
  }
  const int64_t num_prompts = embeds.size(0);
  Tensor negative = prompt.negative_prompt_embeds;
  if (guided && !negative.defined()) {
    Texts texts = prompt.negative_prompt;
    if (texts.values().empty()) texts = empty_texts(num_prompts);
    require<ConfigError>(count_of(texts) == num_prompts,
                         "negative_prompt has {} texts, expected {}, as many as there are prompts",
                         count_of(texts), num_prompts);
    // Without clip_skip, as in Python.
    negative = encode_texts(maybe_convert_prompt(texts, tokenizer_), embeds.size(1), std::nullopt);
  }
  if (negative.defined())
    require<TensorError>(negative.sizes() == embeds.sizes(),
                         "negative_prompt_embeds is {}, expected the shape of the prompt's embeddings, {}",
                         describe(negative), shape_string(embeds.sizes()));

  const int64_t copies = prompt.num_images_per_prompt;
  Tensor states = embeds.to(options).repeat_interleave(copies, 0);
  // Both in one batch of the UNet, the negative ones first.
  if (guided) states = at::cat({negative.to(options).repeat_interleave(copies, 0), states});
  EncodedPrompt encoded{.batch_size = num_prompts * copies,
                        .is_guided = guided,
                        .conditioning = {.encoder_hidden_states = states}};
  if (unet()->config().time_cond_proj_dim.has_value())
    encoded.conditioning.timestep_cond = guidance_scale_embedding(prompt.guidance_scale, encoded.batch_size);
  return encoded;
}

}  // namespace internal
}  // namespace diffusers
