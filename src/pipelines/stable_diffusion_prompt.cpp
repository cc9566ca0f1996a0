// From prompts to the conditioning of the UNet.

#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/stable_diffusion.h"
#include "text/prompt_encoding.h"

namespace diffusers {
namespace {

void check_embeds(std::string_view name, const Tensor& embeds) {
  require<TensorError>(embeds.dim() == 3 && embeds.is_floating_point(),
                       "{} is {}, expected a floating [prompts, tokens, channels]", name, describe(embeds));
}

void check_prompt(const GuidedPrompt& prompt) {
  const bool has_prompt = !prompt.prompt.values().empty();
  const bool has_negative_prompt = !prompt.negative_prompt.values().empty();
  require<ConfigError>(!has_prompt || !prompt.prompt_embeds.defined(),
                       "prompt and prompt_embeds are both given, expected one of them");
  require<ConfigError>(has_prompt || prompt.prompt_embeds.defined(),
                       "neither prompt nor prompt_embeds is given, expected one of them");
  require<ConfigError>(
      !has_negative_prompt || !prompt.negative_prompt_embeds.defined(),
      "negative_prompt and negative_prompt_embeds are both given, expected at most one of them");
  require<ConfigError>(prompt.num_images_per_prompt > 0, "num_images_per_prompt is {}, expected at least 1",
                       prompt.num_images_per_prompt);
  if (prompt.prompt_embeds.defined()) check_embeds("prompt_embeds", prompt.prompt_embeds);
  if (prompt.negative_prompt_embeds.defined())
    check_embeds("negative_prompt_embeds", prompt.negative_prompt_embeds);
}

}  // namespace

Tensor StableDiffusionCall::encode_texts(const Texts& texts, int64_t max_length,
                                         std::optional<int64_t> clip_skip) const {
  const BatchEncoding tokens = tokenize_prompts(tokenizer_, texts, max_length);
  const at::Device device = text_encoder_->parameters().front().device();
  Tensor attention_mask;
  if (text_encoder_->use_attention_mask()) attention_mask = tokens.attention_mask.to(device);
  return encode_tokens(text_encoder_, tokens.input_ids.to(device), attention_mask, clip_skip);
}

void StableDiffusionCall::warn_of_truncation(const Texts& texts, int64_t max_length) const {
  for (const std::string& text : texts.values()) {
    const std::vector<int64_t> ids = tokenizer_.encode(text);
    if (static_cast<int64_t>(ids.size()) <= max_length) continue;
    const std::vector<int64_t> removed(ids.begin() + (max_length - 1), ids.end() - 1);
    log_message(LogLevel::kWarning,
                fmt::format("the text encoder takes {} tokens; this part of the prompt was cut off: {}",
                            max_length, tokenizer_.decode(removed)));
  }
}

Tensor StableDiffusionCall::guidance_scale_embedding(double guidance_scale, int64_t batch_size) const {
  const int64_t width = *unet_->config().time_cond_proj_dim;
  const int64_t half = width / 2;
  // Positional, of 1000 (w - 1); in float32 throughout, as in Python.
  const Tensor w = at::full({batch_size, 1}, guidance_scale - 1, at::kFloat) * 1000.0;
  const Tensor rate = at::full({}, 10000.0, at::kFloat).log() / (half - 1);
  const Tensor angles = w * at::exp(at::arange(half, at::kFloat) * -rate).unsqueeze(0);
  Tensor embedding = at::cat({angles.sin(), angles.cos()}, 1);
  if (width % 2 == 1) embedding = at::constant_pad_nd(embedding, {0, 1});
  return embedding.to(tensor_options());
}

EncodedPrompt StableDiffusionCall::encode_prompt(const GuidedPrompt& prompt) const {
  check_prompt(prompt);
  const at::TensorOptions options = tensor_options();
  const bool has_guidance_input = unet_->config().time_cond_proj_dim.has_value();
  const bool is_guided = prompt.guidance_scale > 1 && !has_guidance_input;

  Tensor embeds = prompt.prompt_embeds;
  if (!embeds.defined()) {
    const int64_t max_length = tokenizer_.model_max_length();
    warn_of_truncation(prompt.prompt, max_length);
    embeds = encode_texts(prompt.prompt, max_length, prompt.clip_skip);
  }
  const int64_t num_prompts = embeds.size(0);
  Tensor negative = prompt.negative_prompt_embeds;
  if (is_guided && !negative.defined()) {
    Texts texts = prompt.negative_prompt;
    if (texts.values().empty())
      texts = std::vector<std::string>(static_cast<std::size_t>(num_prompts), std::string());
    require<ConfigError>(static_cast<int64_t>(texts.values().size()) == num_prompts,
                         "negative_prompt has {} texts, expected {}, as many as there are prompts",
                         texts.values().size(), num_prompts);
    // Without clip_skip, as in Python.
    negative = encode_texts(texts, embeds.size(1), std::nullopt);
  }
  if (negative.defined())
    require<TensorError>(negative.sizes() == embeds.sizes(),
                         "negative_prompt_embeds is {}, expected the shape of the prompt's embeddings, {}",
                         describe(negative), shape_string(embeds.sizes()));

  const int64_t copies = prompt.num_images_per_prompt;
  Tensor states = embeds.to(options).repeat_interleave(copies, 0);
  // Both in one batch of the UNet, the negative ones first.
  if (is_guided) states = at::cat({negative.to(options).repeat_interleave(copies, 0), states});
  EncodedPrompt encoded{.batch_size = num_prompts * copies,
                        .is_guided = is_guided,
                        .conditioning = {.encoder_hidden_states = states}};
  if (has_guidance_input)
    encoded.conditioning.timestep_cond = guidance_scale_embedding(prompt.guidance_scale, encoded.batch_size);
  return encoded;
}

}  // namespace diffusers
