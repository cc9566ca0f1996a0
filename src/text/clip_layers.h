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

/// transformers draws each weight anew, twice, after the layers have drawn theirs. `init_weights` of a module
/// draws what its pass over the module draws, in its order.
class TextEmbeddingsImpl : public torch::nn::Module {
 public:
  explicit TextEmbeddingsImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  /// @param position_ids `[1 or B, L]`
  Tensor forward(const Tensor& input_ids, const Tensor& position_ids) const;
  const Tensor& token_weight() const { return token_embedding_->weight; }
  /// New rows take the mean of the old.
  void resize(int64_t num_tokens);

 private:
  layers::Embedding token_embedding_{nullptr};
  layers::Embedding position_embedding_{nullptr};
};

class SelfAttentionImpl : public torch::nn::Module {
 public:
  explicit SelfAttentionImpl(const CLIPTextConfig& config);
  void init_weights(const CLIPTextConfig& config);
  /// @param mask of scores, broadcasts to `[B, heads, L, L]`; undefined: causal
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
  /// @param states what goes into each layer and what comes out of the last, if not null
  Tensor forward(Tensor hidden_states, const Tensor& mask, bool checkpointing,
                 std::vector<Tensor>* states) const;

 private:
  bool uses_random_;
  layers::ModuleVector<std::shared_ptr<EncoderLayerImpl>> layers_;
};

/// The standard deviation that transformers draws a layer's weights with before the model's own; 0 counts as
/// not given.
double common_std(const CLIPTextConfig& config);
void draw_normal(const Tensor& weight, double std);

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
