#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/model.h>

namespace diffusers {

/// The arguments of transformers' `CLIPTextConfig(...)`, with its defaults.
struct CLIPTextConfig {
  int64_t vocab_size = 49408;                   ///< number of tokens, the rows of the token embedding
  int64_t hidden_size = 512;                    ///< width of the hidden states
  int64_t intermediate_size = 2048;             ///< width of the hidden layer of each feed forward
  std::optional<int64_t> projection_dim = 512;  ///< width of text_embeds; CLIPTextModelWithProjection only
  int64_t num_hidden_layers = 12;               ///< number of transformer layers, 1 to 1000
  int64_t num_attention_heads = 8;              ///< number of heads; divides hidden_size
  int64_t max_position_embeddings = 77;         ///< largest number of tokens in a sequence
  /// Activation of the feed forward: "quick_gelu", "gelu", or another function without parameters of
  /// transformers' `ACT2FN`.
  std::string hidden_act = "quick_gelu";
  double layer_norm_eps = 1e-5;    ///< epsilon of the layer norms
  double attention_dropout = 0.0;  ///< dropout probability of the attention weights in training, in [0, 1]
  /// Standard deviation of a first draw of the weights. A second draw overwrites it, as in transformers.
  double initializer_range = 0.02;
  double initializer_factor = 1.0;              ///< factor of the standard deviations of the initial weights
  std::optional<int64_t> pad_token_id = 1;      ///< kept for config.json; the model does not use it
  std::optional<int64_t> bos_token_id = 49406;  ///< kept for config.json; the model does not use it
  /// Id of the end token. pooler_output is the hidden state at the first end token of a sequence. If the id
  /// is 2, as in old configs, it is the hidden state at the largest id. A sequence without an end token is
  /// pooled at its first token. nullopt is refused.
  std::optional<int64_t> eos_token_id = 49407;
};

/// Reads a config from the text of a config.json, with transformers' semantics. If the file is that of a
/// whole CLIP, its `text_config` is read. Unknown keys are kept without a warning, as in transformers.
/// @param json the text
/// @param where path of the file, for messages
/// @param config receives the fields
/// @param source receives the JSON that was read
/// @param report not changed
/// @throws ConfigError naming the key and the value that does not fit, or if the config is that of another
///   model
/// @throws FileError if the text is not JSON
void read_model_config(std::string_view json, std::string_view where, CLIPTextConfig& config,
                       std::string& source, LoadReport& report);

/// The optional arguments of `CLIPTextModel::forward`.
struct CLIPTextModelForwardOptions {
  /// `[B, L]`: 0 excludes a token from attention; the causal mask stays. `[B or 1, heads or 1, L, L]`,
  /// boolean or added to the scores: replaces the causal mask.
  Tensor attention_mask = {};
  Tensor position_ids = {};           ///< integral `[B, L]` or `[1, L]`; default: 0, 1, ..., L - 1
  bool output_hidden_states = false;  ///< returns hidden_states
};

/// The result of `CLIPTextModel::forward`.
struct BaseModelOutputWithPooling {
  Tensor last_hidden_state;  ///< `[B, L, hidden_size]`, after the final layer norm
  Tensor pooler_output;      ///< `[B, hidden_size]`, the last hidden state at the end token
  /// The embeddings and the output of each layer before the final layer norm: num_hidden_layers + 1 tensors
  /// `[B, L, hidden_size]`. Empty without output_hidden_states.
  std::vector<Tensor> hidden_states = {};
};

/// The result of `CLIPTextModelWithProjection::forward`.
struct CLIPTextModelOutput {
  Tensor text_embeds;                      ///< `[B, projection_dim]`, the projected pooler_output
  Tensor last_hidden_state;                ///< `[B, L, hidden_size]`, after the final layer norm
  std::vector<Tensor> hidden_states = {};  ///< as in `BaseModelOutputWithPooling`
};

inline namespace internal {
namespace clip {
class TextEmbeddingsImpl;
class EncoderImpl;
}  // namespace clip
}  // namespace internal

/// The text encoder of CLIP (Radford et al. 2021; transformers `CLIPTextModel`). Parameters have the
/// state-dict names of transformers 5 and are drawn in its order: after `torch::manual_seed(0)` a new model
/// has, bit for bit, the weights of Python's model after `torch.manual_seed(0)`. Files are written with the
/// prefix `text_model.`, which all versions of transformers read. Files are read with and without it.
class CLIPTextModelImpl : public ModelImpl<CLIPTextModelImpl, CLIPTextConfig>,
                          public PeftAdapterMixin<CLIPTextModelImpl> {
 public:
  static constexpr std::string_view kClassName = "CLIPTextModel";  ///< class name in config.json
  using ForwardOptions = CLIPTextModelForwardOptions;              ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit CLIPTextModelImpl(CLIPTextConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the hidden states of tokens.
  /// @param input_ids integral `[B, L]`, each in [0, vocab_size), L at most max_position_embeddings
  /// @param options mask, positions and choice of the outputs
  /// @return the hidden states
  /// @throws TensorError naming both sides if a shape, dtype, device or range does not fit. The range of ids
  ///   is checked on the CPU only.
  BaseModelOutputWithPooling forward(const Tensor& input_ids,
                                     const CLIPTextModelForwardOptions& options = {}) const;
  /// Applies the final layer norm, for hidden states that are taken from an earlier layer (`clip_skip`).
  /// @param hidden_states `[B, L, hidden_size]`
  /// @return shape of hidden_states
  /// @throws TensorError unless the last dimension is hidden_size
  Tensor final_layer_norm(const Tensor& hidden_states) const;

  /// @return the weight of the token embedding, `[vocab_size, hidden_size]`, shared with the model
  Tensor get_input_embeddings() const;
  /// Changes the number of tokens. The rows of the remaining tokens are kept. New rows are the mean of the
  /// old rows.
  /// @param new_num_tokens new vocab_size, at least 1
  /// @throws ConfigError unless new_num_tokens is positive
  void resize_token_embeddings(int64_t new_num_tokens);

  /// Recomputes layers in the backward pass instead of keeping their intermediate results. Saves memory and
  /// costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { gradient_checkpointing_ = true; }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { gradient_checkpointing_ = false; }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return gradient_checkpointing_; }

  /// Returns the key `use_attention_mask` of the config file that the model was made from. If it is true,
  /// pipelines pass the attention mask of the tokens. CLIP's own configs do not have the key, but those of
  /// some text encoders of Stable Diffusion do.
  /// @return value of the key; false without it
  bool use_attention_mask() const;

  /// @return the config as transformers writes config.json, with the unknown keys that came from a file
  std::string config_json() const;
  /// @return names of the weights files (`model.safetensors`) and of the tensors in them
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

/// A handle of a `CLIPTextModelImpl`: `CLIPTextModel text({.hidden_size = 64, .num_attention_heads = 4});`
using CLIPTextModel = ModelHolder<CLIPTextModelImpl, CLIPTextConfig>;

/// A CLIPTextModel with a linear projection of the pooled state to the embedding space that texts and images
/// share (transformers `CLIPTextModelWithProjection`).
class CLIPTextModelWithProjectionImpl : public ModelImpl<CLIPTextModelWithProjectionImpl, CLIPTextConfig>,
                                        public PeftAdapterMixin<CLIPTextModelWithProjectionImpl> {
 public:
  static constexpr std::string_view kClassName =
      "CLIPTextModelWithProjection";                   ///< class name in config.json
  using ForwardOptions = CLIPTextModelForwardOptions;  ///< optional arguments of `forward`

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit CLIPTextModelWithProjectionImpl(CLIPTextConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the hidden states and the projected embedding of tokens.
  /// @param input_ids integral `[B, L]`, each in [0, vocab_size), L at most max_position_embeddings
  /// @param options mask, positions and choice of the outputs
  /// @return embedding and hidden states
  /// @throws TensorError as `CLIPTextModel::forward`
  CLIPTextModelOutput forward(const Tensor& input_ids, const CLIPTextModelForwardOptions& options = {}) const;
  /// @return the encoder without the projection
  const CLIPTextModel& text_model() const { return text_model_; }
  /// Applies the final layer norm of the encoder.
  /// @param hidden_states `[B, L, hidden_size]`
  /// @return shape of hidden_states
  /// @throws TensorError unless the last dimension is hidden_size
  Tensor final_layer_norm(const Tensor& hidden_states) const {
    return text_model_->final_layer_norm(hidden_states);
  }
  /// @return the weight of the token embedding, `[vocab_size, hidden_size]`, shared with the model
  Tensor get_input_embeddings() const { return text_model_->get_input_embeddings(); }
  /// Changes the number of tokens, as `CLIPTextModel::resize_token_embeddings`.
  /// @param new_num_tokens new vocab_size, at least 1
  /// @throws ConfigError unless new_num_tokens is positive
  void resize_token_embeddings(int64_t new_num_tokens);

  /// Recomputes layers in the backward pass instead of keeping their intermediate results. Saves memory and
  /// costs time. Values and gradients stay the same.
  void enable_gradient_checkpointing() { text_model_->enable_gradient_checkpointing(); }
  /// Disables gradient checkpointing.
  void disable_gradient_checkpointing() { text_model_->disable_gradient_checkpointing(); }
  /// @return true if gradient checkpointing is enabled
  bool is_gradient_checkpointing() const { return text_model_->is_gradient_checkpointing(); }

  /// @return the config as transformers writes config.json, with the unknown keys that came from a file
  std::string config_json() const;
  /// @return names of the weights files (`model.safetensors`) and of the tensors in them
  static detail::WeightsFormat weights_format();

 private:
  friend class ModelImpl<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;
  void copy_settings(const CLIPTextModelWithProjectionImpl& other);

  CLIPTextModel text_model_{nullptr};
  layers::Linear text_projection_{nullptr};
};

/// A handle of a `CLIPTextModelWithProjectionImpl`, such as the second text encoder of Stable Diffusion XL.
using CLIPTextModelWithProjection = ModelHolder<CLIPTextModelWithProjectionImpl, CLIPTextConfig>;

}  // namespace diffusers
