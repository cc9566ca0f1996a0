#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>

namespace diffusers {

/// The arguments of transformers' `CLIPTextConfig(...)`, with its defaults.
struct CLIPTextConfig {
  int64_t vocab_size = 49408;
  int64_t hidden_size = 512;
  int64_t intermediate_size = 2048;
  std::optional<int64_t> projection_dim = 512;  ///< of CLIPTextModelWithProjection
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 8;
  int64_t max_position_embeddings = 77;
  /// "quick_gelu", "gelu", or another function without parameters of transformers' `ACT2FN`.
  std::string hidden_act = "quick_gelu";
  double layer_norm_eps = 1e-5;
  double attention_dropout = 0.0;
  double initializer_range = 0.02;
  double initializer_factor = 1.0;
  std::optional<int64_t> pad_token_id = 1;
  std::optional<int64_t> bos_token_id = 49406;
  /// Where the sequence is pooled: at the first of these; 2, which old configs say, is at the largest id.
  std::optional<int64_t> eos_token_id = 49407;
};

void read_model_config(std::string_view json, std::string_view where, CLIPTextConfig& config,
                       std::string& source, LoadReport& report);

/// The optional arguments of `CLIPTextModel::forward`.
struct CLIPTextModelForwardOptions {
  /// `[B, L]`, 0 where a token is not to be attended to; or `[B or 1, heads or 1, L, L]`, boolean or added to
  /// the scores, which then takes the place of the causal mask.
  Tensor attention_mask = {};
  Tensor position_ids = {};  ///< integral `[B, L]` or `[1, L]`; 0, 1, ... by default
  bool output_hidden_states = false;
};

struct BaseModelOutputWithPooling {
  Tensor last_hidden_state;  ///< `[B, L, hidden_size]`, after the final layer norm
  Tensor pooler_output;      ///< `[B, hidden_size]`, that of the end token
  /// The embeddings and what each layer made of them, before the final layer norm; num_hidden_layers + 1, if
  /// asked for.
  std::vector<Tensor> hidden_states = {};
};

struct CLIPTextModelOutput {
  Tensor text_embeds;        ///< `[B, projection_dim]`
  Tensor last_hidden_state;  ///< `[B, L, hidden_size]`
  std::vector<Tensor> hidden_states = {};
};

inline namespace internal {
namespace clip {
class TextEmbeddingsImpl;
class EncoderImpl;
}  // namespace clip
}  // namespace internal

/// The text encoder of CLIP (Radford et al. 2021; transformers `CLIPTextModel`). Parameters have transformers
/// 5's state-dict names and are drawn in its order: after `torch::manual_seed(0)` a new model has its weights
/// bit for bit. Files are read with and without the prefix `text_model.` that older versions put in front of
/// the names, and written with it, which all versions read.
class CLIPTextModelImpl : public ModelImpl<CLIPTextModelImpl, CLIPTextConfig> {
 public:
  static constexpr std::string_view kClassName = "CLIPTextModel";  ///< class name in config.json
  using ForwardOptions = CLIPTextModelForwardOptions;              ///< optional arguments of `forward`

  /// @throws ConfigError naming the key and the value that cannot work
  explicit CLIPTextModelImpl(CLIPTextConfig config = {});
  void reset() override;

  /// @param input_ids integral `[B, L]`, each in [0, vocab_size), L at most max_position_embeddings
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit
  BaseModelOutputWithPooling forward(const Tensor& input_ids,
                                     const CLIPTextModelForwardOptions& options = {}) const;
  /// The layer norm at the end, for hidden states that are taken from an earlier layer.
  /// @param hidden_states `[B, L, hidden_size]`
  Tensor final_layer_norm(const Tensor& hidden_states) const;

  /// The vectors of the tokens, `[vocab_size, hidden_size]`.
  Tensor get_input_embeddings() const;
  /// Gives the model another number of tokens. The vectors of those that stay are kept; new ones are drawn
  /// from the normal distribution with the mean and the spread of the old.
  /// @throws ConfigError unless it is positive
  void resize_token_embeddings(int64_t new_num_tokens);

  /// Trades time for memory: in training, layers run again in the backward instead of keeping their
  /// intermediate results. Values and gradients stay the same.
  void enable_gradient_checkpointing() { gradient_checkpointing_ = true; }
  void disable_gradient_checkpointing() { gradient_checkpointing_ = false; }
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  /// The key `use_attention_mask` of the config file that the model was made from: whether a pipeline passes
  /// the attention mask of the tokens. False without the key. It is no key of CLIP's, but some text encoders
  /// of Stable Diffusion have it.
  bool use_attention_mask() const;

  /// The configuration as transformers writes config.json, with what came from a file.
  std::string config_json() const;
  static detail::WeightsFormat weights_format();

 private:
  friend class ModelImpl<CLIPTextModelImpl, CLIPTextConfig>;
  void copy_settings(const CLIPTextModelImpl& other) {
    gradient_checkpointing_ = other.gradient_checkpointing_;
  }

  bool gradient_checkpointing_ = false;
  std::shared_ptr<clip::TextEmbeddingsImpl> embeddings_;
  std::shared_ptr<clip::EncoderImpl> encoder_;
  layers::LayerNorm final_layer_norm_{nullptr};
};

/// `CLIPTextModel text({.hidden_size = 64, .num_attention_heads = 4});`
using CLIPTextModel = ModelHolder<CLIPTextModelImpl, CLIPTextConfig>;

/// CLIPTextModel with a projection of the pooled state to the space that texts and images share (transformers
/// `CLIPTextModelWithProjection`).
class CLIPTextModelWithProjectionImpl : public ModelImpl<CLIPTextModelWithProjectionImpl, CLIPTextConfig> {
 public:
  static constexpr std::string_view kClassName =
      "CLIPTextModelWithProjection";                   ///< class name in config.json
  using ForwardOptions = CLIPTextModelForwardOptions;  ///< optional arguments of `forward`

  /// @throws ConfigError naming the key and the value that cannot work
  explicit CLIPTextModelWithProjectionImpl(CLIPTextConfig config = {});
  void reset() override;

  /// As CLIPTextModel's.
  CLIPTextModelOutput forward(const Tensor& input_ids, const CLIPTextModelForwardOptions& options = {}) const;
  /// The encoder without the projection.
  const CLIPTextModel& text_model() const { return text_model_; }
  Tensor final_layer_norm(const Tensor& hidden_states) const {
    return text_model_->final_layer_norm(hidden_states);
  }
  Tensor get_input_embeddings() const { return text_model_->get_input_embeddings(); }
  /// As CLIPTextModel's.
  void resize_token_embeddings(int64_t new_num_tokens);

  void enable_gradient_checkpointing() { text_model_->enable_gradient_checkpointing(); }
  void disable_gradient_checkpointing() { text_model_->disable_gradient_checkpointing(); }
  bool is_gradient_checkpointing() const { return text_model_->is_gradient_checkpointing(); }

  std::string config_json() const;
  static detail::WeightsFormat weights_format();

 private:
  friend class ModelImpl<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;
  void copy_settings(const CLIPTextModelWithProjectionImpl& other);

  CLIPTextModel text_model_{nullptr};
  layers::Linear text_projection_{nullptr};
};

using CLIPTextModelWithProjection = ModelHolder<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;

}  // namespace diffusers
