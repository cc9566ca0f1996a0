#include "text/learned_tokens.h"

#include "core/require.h"
#include "text/clip_layers.h"

namespace diffusers {
inline namespace internal {

LearnedTokens::LearnedTokens(const CLIPTextModel& text_encoder, int64_t first, const Tensor& rows) {
  const auto children = text_encoder.ptr()->named_children();
  const auto* embeddings = children.find("embeddings");
  if (embeddings != nullptr) embeddings_ = std::dynamic_pointer_cast<clip::TextEmbeddingsImpl>(*embeddings);
  require<Error>(embeddings_ != nullptr, "the text encoder has no module \"embeddings\"");
  embeddings_->set_learned_rows(first, rows);
}

LearnedTokens::~LearnedTokens() { embeddings_->set_learned_rows(0, {}); }

}  // namespace internal
}  // namespace diffusers
