#pragma once

// Prompts and embeddings that a pipeline is called with.

#include <cstdint>
#include <string_view>

#include <diffusers/core/tensor.h>
#include <diffusers/text/clip_tokenizer.h>

namespace diffusers {
inline namespace internal {

/// @throws TensorError unless `embeds` is undefined or a floating `[prompts, tokens, channels]`
void check_prompt_embeds(std::string_view name, const Tensor& embeds);

/// @throws ConfigError if both options are given
void refuse_both(std::string_view text_name, const Texts& texts, std::string_view embeds_name,
                 const Tensor& embeds);

/// The number of texts.
int64_t count_of(const Texts& texts);

/// As many empty texts.
Texts empty_texts(int64_t count);

/// Warns of each text whose tokens do not fit, naming the part that is cut off.
void warn_of_truncation(const CLIPTokenizer& tokenizer, const Texts& texts, int64_t max_length);

}  // namespace internal
}  // namespace diffusers
