#pragma once

// From prompts to embeddings, as the Stable Diffusion pipelines and the training tasks share it.

#include <cstdint>
#include <optional>
#include <string>

#include <diffusers/core/tensor.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

namespace diffusers {
inline namespace internal {

/// Tokenizes prompts. Each row is padded, or cut, to `max_length` tokens.
/// @return int64 `[B, max_length]`, on the CPU
BatchEncoding tokenize_prompts(const CLIPTokenizer& tokenizer, const Texts& prompts, int64_t max_length);

/// Finds the part of a prompt that `tokenize_prompts` cuts off.
/// @return its text; none if the prompt has at most `max_length` tokens
std::optional<std::string> truncated_part(const CLIPTokenizer& tokenizer, const std::string& prompt,
                                          int64_t max_length);

/// Encodes tokens for the UNets of Stable Diffusion 1.x and 2.x.
/// @param input_ids `[B, L]`, on the device of the text encoder
/// @param attention_mask as CLIPTextModel takes it; may be undefined
/// @param clip_skip number of layers that are left out at the end; none: the last hidden state
/// @return `[B, L, hidden_size]`, after the final layer norm
/// @throws ConfigError if `clip_skip` is not one of the text encoder's layers
Tensor encode_tokens(const CLIPTextModel& text_encoder, const Tensor& input_ids,
                     const Tensor& attention_mask = {}, std::optional<int64_t> clip_skip = std::nullopt);

/// The embeddings of prompts for the UNet of Stable Diffusion XL.
struct PooledPromptEmbeds {
  Tensor hidden_states;  ///< `[B, L, sum of both hidden sizes]`
  Tensor pooled;         ///< `[B, projection_dim]` of the second text encoder
};

/// Encodes tokens for the UNet of Stable Diffusion XL: the hidden states before the last layer of both text
/// encoders, and the pooled projection of the second.
/// @param input_ids `[B, L]`, on the device of the text encoders
/// @param input_ids_2 `[B, L]`, of the second tokenizer
PooledPromptEmbeds encode_tokens_xl(const CLIPTextModel& text_encoder,
                                    const CLIPTextModelWithProjection& text_encoder_2,
                                    const Tensor& input_ids, const Tensor& input_ids_2);

}  // namespace internal
}  // namespace diffusers
