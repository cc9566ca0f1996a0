#pragma once

// The layers of CLIP's text encoder (transformers `modeling_clip.py`). Children are registered in Python's
// order.

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/text/clip_text_model.h>

#include "text/clip_activation.h"

namespace diffusers {
inline namespace internal {
namespace clip {

/// Token and position embeddings. After the layers have drawn their weights, transformers draws each weight
/// again, twice. `init_weights` of a module makes these draws in the same order.
class TextEmbeddingsImpl : public torch::nn::Module {
 public:
  explicit TextEmbeddingsImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  /// @param position_ids `[1 or B, L]`
  Tensor forward(const Tensor& input_ids, const Tensor& position_ids) const;
  const Tensor& token_weight() const { return token_embedding_->weight; }
  /// Changes the number of tokens. New rows get the mean of the old rows.
  void resize(int64_t num_tokens);
  /// Takes the vectors of the tokens `first` to `first + rows.size(0) - 1` from `rows`, which get the
  /// gradient, and not from the table. Undefined rows: from the table again.
  void set_learned_rows(int64_t first, Tensor rows);

 private:
  Tensor token_vectors(const Tensor& input_ids) const;

  layers::Embedding token_embedding_{nullptr};
  layers::Embedding position_embedding_{nullptr};
  int64_t first_learned_ = 0;
  Tensor learned_rows_;  // [n, hidden_size]; undefined: none
};

class SelfAttentionImpl : public torch::nn::Module {
 public:
  explicit SelfAttentionImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  /// @param mask mask of the scores, broadcasts to `[B, heads, L, L]`; undefined means causal
  Tensor forward(const Tensor& hidden_states, const Tensor& mask) const;

 private:
  int64_t heads_;
  double dropout_;
  layers::Linear k_proj_{nullptr};
  layers::Linear v_proj_{nullptr};
  layers::Linear q_proj_{nullptr};
  layers::Linear out_proj_{nullptr};
};

class PerceptronImpl : public torch::nn::Module {
 public:
  explicit PerceptronImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  Tensor forward(const Tensor& hidden_states) const;

 private:
  ActivationFunction activation_;
  layers::Linear fc1_{nullptr};
  layers::Linear fc2_{nullptr};
};

class EncoderLayerImpl : public torch::nn::Module {
 public:
  explicit EncoderLayerImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  Tensor forward(const Tensor& hidden_states, const Tensor& mask) const;

 private:
  std::shared_ptr<SelfAttentionImpl> self_attn_;
  layers::LayerNorm layer_norm1_{nullptr};
  std::shared_ptr<PerceptronImpl> mlp_;
  layers::LayerNorm layer_norm2_{nullptr};
};

class EncoderImpl : public torch::nn::Module {
 public:
  explicit EncoderImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  /// @param states if not null, receives the input of each layer and the output of the last one
  Tensor forward(Tensor hidden_states, const Tensor& mask, bool checkpointing,
                 std::vector<Tensor>* states) const;

 private:
  bool uses_random_;
  layers::ModuleVector<std::shared_ptr<EncoderLayerImpl>> layers_;
};

/// Returns the standard deviation of transformers' first draw of a layer's weights. 0 in the config counts as
/// not given.
double common_std(const CLIPTextConfig& config);
void draw_normal(const Tensor& weight, double std);

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
