#include "pipelines/prompt_inputs.h"

#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "text/prompt_encoding.h"

namespace diffusers {
inline namespace internal {

void check_prompt_embeds(std::string_view name, const Tensor& embeds) {
  require<TensorError>(!embeds.defined() || (embeds.dim() == 3 && embeds.is_floating_point()),
                       "{} is {}, expected a floating [prompts, tokens, channels]", name, describe(embeds));
}

void refuse_both(std::string_view text_name, const Texts& texts, std::string_view embeds_name,
                 const Tensor& embeds) {
  require<ConfigError>(texts.values().empty() || !embeds.defined(),
                       "{} and {} are both given, expected at most one of them", text_name, embeds_name);
}

int64_t count_of(const Texts& texts) { return static_cast<int64_t>(texts.values().size()); }

Texts empty_texts(int64_t count) {
  return std::vector<std::string>(static_cast<std::size_t>(count), std::string());
}

void warn_of_truncation(const CLIPTokenizer& tokenizer, const Texts& texts, int64_t max_length) {
  for (const std::string& text : texts.values()) {
    const std::optional<std::string> part = truncated_part(tokenizer, text, max_length);
    if (!part) continue;
    log_message(LogLevel::kWarning,
                fmt::format("the text encoder takes {} tokens; this part of the prompt was cut off: {}",
                            max_length, *part));
  }
}

}  // namespace internal
}  // namespace diffusers
