#pragma once

// The embeddings of captions in a training with frozen text encoders.

#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/prompt_encoding.h"

namespace diffusers {
inline namespace internal {

/// Keeps the embeddings of captions in host memory, so that each caption is encoded once. A caption is
/// encoded alone: its embeddings then do not depend on the other captions of a batch, and a resumed training
/// repeats them bit for bit.
class TextEmbeddingCache {
 public:
  /// Encodes one caption.
  /// @return `[1, L, D]` and, for Stable Diffusion XL, `[1, P]`, on any device
  using Encode = std::function<PooledPromptEmbeds(const std::string& caption)>;

  /// Returns the embeddings of captions.
  /// @param captions one at least
  /// @param encode is called for each caption that is not in the cache
  /// @return `[B, L, D]` and, if `encode` gives it, `[B, P]`, on the CPU
  PooledPromptEmbeds get(const std::vector<std::string>& captions, const Encode& encode);
  /// Forgets all embeddings.
  void clear() { entries_.clear(); }

 private:
  std::unordered_map<std::string, PooledPromptEmbeds> entries_;  // `[L, D]` and `[P]`
};

}  // namespace internal
}  // namespace diffusers
