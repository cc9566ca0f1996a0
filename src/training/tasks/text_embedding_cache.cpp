#include "training/tasks/text_embedding_cache.h"

#include <utility>

#include <ATen/ATen.h>

namespace diffusers {
inline namespace internal {

PooledPromptEmbeds TextEmbeddingCache::get(const std::vector<std::string>& captions, const Encode& encode) {
  std::vector<Tensor> hidden_states;
  std::vector<Tensor> pooled;
  for (const std::string& caption : captions) {
    auto found = entries_.find(caption);
    if (found == entries_.end()) {
      const PooledPromptEmbeds encoded = encode(caption);
      PooledPromptEmbeds on_host{.hidden_states = encoded.hidden_states.squeeze(0).to(at::kCPU),
                                 .pooled = {}};
      if (encoded.pooled.defined()) on_host.pooled = encoded.pooled.squeeze(0).to(at::kCPU);
      found = entries_.emplace(caption, std::move(on_host)).first;
    }
    hidden_states.push_back(found->second.hidden_states);
    if (found->second.pooled.defined()) pooled.push_back(found->second.pooled);
  }
  return {.hidden_states = at::stack(hidden_states), .pooled = pooled.empty() ? Tensor() : at::stack(pooled)};
}

}  // namespace internal
}  // namespace diffusers
