// From prompts to the conditioning of an SDXL UNet.

#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/text/textual_inversion.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/prompt_inputs.h"
#include "pipelines/stable_diffusion_xl.h"
#include "text/prompt_encoding.h"

namespace diffusers {
inline namespace internal {
namespace {

void check_pooled(const char* name, const Tensor& pooled, int64_t num_prompts) {
  require<TensorError>(pooled.dim() == 2 && pooled.is_floating_point() && pooled.size(0) == num_prompts,
                       "{} is {}, expected a floating [{}, channels], a row for each prompt", name,
                       describe(pooled), num_prompts);
}

/// Runs an encoder on texts, with the hidden states of all layers.
template <class Encoder>
auto run_encoder(const Encoder& encoder, const CLIPTokenizer& tokenizer, const Texts& texts,
                 int64_t max_length) {
  const BatchEncoding tokens = tokenize_prompts(tokenizer, texts, max_length);
  return encoder->forward(tokens.input_ids.to(encoder->parameters().front().device()),
                          {.output_hidden_states = true});
}

Tensor late_hidden_state(const std::vector<Tensor>& hidden_states, int64_t clip_skip) {
  const auto count = static_cast<int64_t>(hidden_states.size());
  require<ConfigError>(clip_skip >= 0 && clip_skip + 2 <= count,
                       "clip_skip is {}, expected 0 to {}, one less than the text encoder's layers",
                       clip_skip, count - 2);
  return hidden_states[static_cast<std::size_t>(count - 2 - clip_skip)];
}

/// One text for all prompts, or one each.
Texts for_each_prompt(const char* name, const Texts& texts, int64_t num_prompts) {
  if (count_of(texts) == 1)
    return std::vector<std::string>(static_cast<std::size_t>(num_prompts), texts.values().front());
  require<ConfigError>(count_of(texts) == num_prompts,
                       "{} has {} texts, expected one for all or {}, as many as there are prompts", name,
                       count_of(texts), num_prompts);
  return texts;
}

}  // namespace

StableDiffusionXLCall::StableDiffusionXLCall(StableDiffusionXLBase& pipeline)
    : LatentCall(pipeline), force_zeros_(pipeline.force_zeros_for_empty_prompt()) {
  const auto has = [&](const char* name) { return pipeline.components().at(name).has_value(); };
  for (const auto& [encoder, tokenizer] :
       {std::pair{"text_encoder", "tokenizer"}, std::pair{"text_encoder_2", "tokenizer_2"}})
    require<ConfigError>(has(encoder) == has(tokenizer), "{}: {} and {} go together, one of them is absent",
                         pipeline.class_name(), encoder, tokenizer);
  if (has("text_encoder")) {
    text_encoder_ = pipeline.text_encoder();
    tokenizer_ = pipeline.tokenizer();
  }
  if (has("text_encoder_2")) {
    text_encoder_2_ = pipeline.text_encoder_2();
    tokenizer_2_ = pipeline.tokenizer_2();
  }
}

void StableDiffusionXLCall::check_prompts(const TwoPrompts& prompt) const {
  const bool has_prompt = count_of(prompt.prompt) > 0;
  require<ConfigError>(!has_prompt || !prompt.prompt_embeds.defined(),
                       "prompt and prompt_embeds are both given, expected one of them");
  require<ConfigError>(has_prompt || prompt.prompt_embeds.defined(),
                       "neither prompt nor prompt_embeds is given, expected one of them");
  refuse_both("prompt_2", prompt.prompt_2, "prompt_embeds", prompt.prompt_embeds);
  refuse_both("negative_prompt", prompt.negative_prompt, "negative_prompt_embeds",
              prompt.negative_prompt_embeds);
  refuse_both("negative_prompt_2", prompt.negative_prompt_2, "negative_prompt_embeds",
              prompt.negative_prompt_embeds);
  require<ConfigError>(!prompt.prompt_embeds.defined() || prompt.pooled_prompt_embeds.defined(),
                       "prompt_embeds is given, pooled_prompt_embeds of the same text is missing");
  require<ConfigError>(
      !prompt.negative_prompt_embeds.defined() || prompt.negative_pooled_prompt_embeds.defined(),
      "negative_prompt_embeds is given, negative_pooled_prompt_embeds of the same text is missing");
  require<ConfigError>(prompt.num_images_per_prompt > 0, "num_images_per_prompt is {}, expected at least 1",
                       prompt.num_images_per_prompt);
  check_prompt_embeds("prompt_embeds", prompt.prompt_embeds);
  check_prompt_embeds("negative_prompt_embeds", prompt.negative_prompt_embeds);
  const bool has_one_encoder = text_encoder_.is_empty();
  require<ConfigError>(
      !has_one_encoder || (count_of(prompt.prompt_2) == 0 && count_of(prompt.negative_prompt_2) == 0),
      "prompt_2 or negative_prompt_2 is given, but the pipeline has one text encoder; it takes prompt and "
      "negative_prompt");
}

StableDiffusionXLCall::Embeds StableDiffusionXLCall::encode_texts(const Texts& prompt, const Texts& prompt_2,
                                                                  std::optional<int64_t> max_length,
                                                                  int64_t clip_skip) const {
  require<ConfigError>(!text_encoder_2_.is_empty(),
                       "text_encoder_2 is absent, so that texts cannot be encoded; give prompt_embeds, "
                       "pooled_prompt_embeds, negative_prompt_embeds and negative_pooled_prompt_embeds");
  const auto length_of = [&](const CLIPTokenizer& tokenizer, const Texts& texts) {
    if (max_length) return *max_length;
    warn_of_truncation(tokenizer, texts, tokenizer.model_max_length());
    return tokenizer.model_max_length();
  };
  std::vector<Tensor> states;
  if (!text_encoder_.is_empty()) {
    const Texts texts = maybe_convert_prompt(prompt, *tokenizer_);
    const auto output = run_encoder(text_encoder_, *tokenizer_, texts, length_of(*tokenizer_, texts));
    states.push_back(late_hidden_state(output.hidden_states, clip_skip));
  }
  const Texts texts_2 = maybe_convert_prompt(prompt_2, *tokenizer_2_);
  const auto output = run_encoder(text_encoder_2_, *tokenizer_2_, texts_2, length_of(*tokenizer_2_, texts_2));
  states.push_back(late_hidden_state(output.hidden_states, clip_skip));
  return {at::cat(states, -1), output.text_embeds};
}

StableDiffusionXLCall::Embeds StableDiffusionXLCall::negative_embeds(const TwoPrompts& prompt,
                                                                     const Embeds& positive) const {
  if (prompt.negative_prompt_embeds.defined())
    return {prompt.negative_prompt_embeds, prompt.negative_pooled_prompt_embeds};
  const bool has_negative_prompt = count_of(prompt.negative_prompt) > 0;
  if (!has_negative_prompt && force_zeros_) {
    require<ConfigError>(
        count_of(prompt.negative_prompt_2) == 0 && !prompt.negative_pooled_prompt_embeds.defined(),
        "negative_prompt_2 or negative_pooled_prompt_embeds is given without negative_prompt, where "
        "force_zeros_for_empty_prompt makes the negative embeddings zero; give negative_prompt as well");
    return {at::zeros_like(positive.states), at::zeros_like(positive.pooled)};
  }
  const int64_t num_prompts = positive.states.size(0);
  const Texts texts = has_negative_prompt
                          ? for_each_prompt("negative_prompt", prompt.negative_prompt, num_prompts)
                          : empty_texts(num_prompts);
  const Texts texts_2 = count_of(prompt.negative_prompt_2) > 0
                            ? for_each_prompt("negative_prompt_2", prompt.negative_prompt_2, num_prompts)
                            : texts;
  // Without clip_skip, as in Python.
  Embeds embeds = encode_texts(texts, texts_2, positive.states.size(1), /*clip_skip=*/0);
  if (prompt.negative_pooled_prompt_embeds.defined()) embeds.pooled = prompt.negative_pooled_prompt_embeds;
  return embeds;
}

EncodedPrompt StableDiffusionXLCall::encode_prompt(const TwoPrompts& prompt) const {
  check_prompts(prompt);
  Embeds positive{prompt.prompt_embeds, prompt.pooled_prompt_embeds};
  if (!positive.states.defined()) {
    const Texts& prompt_2 = count_of(prompt.prompt_2) > 0 ? prompt.prompt_2 : prompt.prompt;
    require<ConfigError>(count_of(prompt_2) == count_of(prompt.prompt),
                         "prompt_2 has {} texts, expected {}, as many as there are prompts",
                         count_of(prompt_2), count_of(prompt.prompt));
    const Embeds encoded = encode_texts(prompt.prompt, prompt_2, std::nullopt, prompt.clip_skip.value_or(0));
    positive.states = encoded.states;
    if (!positive.pooled.defined()) positive.pooled = encoded.pooled;
  }
  const int64_t num_prompts = positive.states.size(0);
  check_pooled("pooled_prompt_embeds", positive.pooled, num_prompts);

  const at::TensorOptions options = tensor_options();
  const int64_t copies = prompt.num_images_per_prompt;
  const auto repeated = [&](const Tensor& rows) { return rows.to(options).repeat_interleave(copies, 0); };
  const bool guided = is_guided(prompt.guidance_scale);
  EncodedPrompt encoded{.batch_size = num_prompts * copies, .is_guided = guided, .conditioning = {}};
  Tensor& states = encoded.conditioning.encoder_hidden_states;
  Tensor& pooled = encoded.conditioning.added_cond_kwargs.text_embeds;
  states = repeated(positive.states);
  pooled = repeated(positive.pooled);
  if (guided) {
    const Embeds negative = negative_embeds(prompt, positive);
    require<TensorError>(negative.states.sizes() == positive.states.sizes(),
                         "negative_prompt_embeds is {}, expected the shape of the prompt's embeddings, {}",
                         describe(negative.states), shape_string(positive.states.sizes()));
    check_pooled("negative_pooled_prompt_embeds", negative.pooled, num_prompts);
    require<TensorError>(negative.pooled.sizes() == positive.pooled.sizes(),
                         "negative_pooled_prompt_embeds is {}, expected the shape of the prompt's, {}",
                         describe(negative.pooled), shape_string(positive.pooled.sizes()));
    // Both in one batch of the UNet, the negative ones first.
    states = at::cat({repeated(negative.states), states});
    pooled = at::cat({repeated(negative.pooled), pooled});
  }
  if (unet()->config().time_cond_proj_dim.has_value())
    encoded.conditioning.timestep_cond = guidance_scale_embedding(prompt.guidance_scale, encoded.batch_size);
  return encoded;
}

}  // namespace internal
}  // namespace diffusers
