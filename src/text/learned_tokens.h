#pragma once

// The vectors of tokens that are trained while the rest of a text encoder is frozen.

#include <cstdint>
#include <memory>

#include <diffusers/core/tensor.h>
#include <diffusers/text/clip_text_model.h>

namespace diffusers {
inline namespace internal {
namespace clip {
class TextEmbeddingsImpl;
}  // namespace clip

/// For its lifetime, a text encoder takes the vectors of some tokens from a tensor of its own, which gets
/// their gradient. The table of all tokens gets none, and no copy of it is made.
class LearnedTokens {
 public:
  /// @param text_encoder must outlive the object
  /// @param first id of the first token
  /// @param rows `[n, hidden_size]`, the vectors of the tokens `first` to `first + n - 1`
  LearnedTokens(const CLIPTextModel& text_encoder, int64_t first, const Tensor& rows);
  LearnedTokens(const LearnedTokens&) = delete;
  LearnedTokens& operator=(const LearnedTokens&) = delete;
  ~LearnedTokens();

 private:
  std::shared_ptr<clip::TextEmbeddingsImpl> embeddings_;
};

}  // namespace internal
}  // namespace diffusers
