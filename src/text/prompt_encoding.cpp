#include "text/prompt_encoding.h"

#include <vector>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

BatchEncoding tokenize_prompts(const CLIPTokenizer& tokenizer, const Texts& prompts, int64_t max_length) {
  return tokenizer(prompts, {.padding = Padding::kMaxLength, .truncation = true, .max_length = max_length});
}

std::optional<std::string> truncated_part(const CLIPTokenizer& tokenizer, const std::string& prompt,
                                          int64_t max_length) {
  const std::vector<int64_t> ids = tokenizer.encode(prompt);
  if (static_cast<int64_t>(ids.size()) <= max_length) return std::nullopt;
  return tokenizer.decode(std::vector<int64_t>(ids.begin() + (max_length - 1), ids.end() - 1));
}

Tensor encode_tokens(const CLIPTextModel& text_encoder, const Tensor& input_ids, const Tensor& attention_mask,
                     std::optional<int64_t> clip_skip) {
  CLIPTextModelForwardOptions options{.attention_mask = attention_mask};
  if (!clip_skip) return text_encoder->forward(input_ids, options).last_hidden_state;

  const int64_t num_layers = text_encoder->config().num_hidden_layers;
  require<ConfigError>(*clip_skip >= 0 && *clip_skip <= num_layers,
                       "clip_skip is {}, expected 0 to {}, the text encoder's layers", *clip_skip,
                       num_layers);
  options.output_hidden_states = true;
  const std::vector<Tensor> hidden_states = text_encoder->forward(input_ids, options).hidden_states;
  return text_encoder->final_layer_norm(
      hidden_states[hidden_states.size() - 1 - static_cast<std::size_t>(*clip_skip)]);
}

PooledPromptEmbeds encode_tokens_xl(const CLIPTextModel& text_encoder,
                                    const CLIPTextModelWithProjection& text_encoder_2,
                                    const Tensor& input_ids, const Tensor& input_ids_2) {
  const CLIPTextModelForwardOptions options{.output_hidden_states = true};
  const std::vector<Tensor> first = text_encoder->forward(input_ids, options).hidden_states;
  const CLIPTextModelOutput second = text_encoder_2->forward(input_ids_2, options);
  return {at::cat({first[first.size() - 2], second.hidden_states[second.hidden_states.size() - 2]}, -1),
          second.text_embeds};
}

}  // namespace internal
}  // namespace diffusers
