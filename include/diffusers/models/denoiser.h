#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Properties of a model that training and sampling depend on. A field without a value is unknown.
struct DenoiserInfo {
  std::optional<int64_t> in_channels = std::nullopt;       ///< channels of the sample
  std::optional<int64_t> out_channels = std::nullopt;      ///< channels of the prediction
  std::optional<int64_t> num_class_embeds = std::nullopt;  ///< rows of the class embedding
  bool takes_class_labels = false;                         ///< uses `Conditioning::class_labels`
  bool takes_encoder_hidden_states = false;                ///< uses `Conditioning::encoder_hidden_states`
  /// "positional", "fourier" or "learned"; empty if unknown. Only "positional" takes negative
  /// and fractional timesteps.
  std::string time_embedding_type = {};
  double dropout = 0.0;  ///< largest dropout probability of the model's layers
};

namespace detail {
/// Concatenates `conditioning.extra_channels`, if given, after the channels of the sample.
Tensor with_extra_channels(const Tensor& sample, const Conditioning& conditioning);
/// @throws ConfigError naming the first input that is given and not `accepted`
void refuse_inputs(const Conditioning& conditioning, std::initializer_list<std::string_view> accepted,
                   const torch::nn::Module& model);
/// Returns the largest probability of the dropout layers in a module.
double largest_dropout(const torch::nn::Module& model);

template <class Output>
Tensor prediction_of(Output&& output) {
  if constexpr (requires { output.sample; }) {
    return output.sample;
  } else {
    return std::forward<Output>(output);
  }
}

// The signatures of `forward` from which a Denoiser can be made.
template <class Model>
concept TakesConditioning = requires(Model model, const Tensor& tensor, const Conditioning& conditioning) {
  model->forward(tensor, tensor, conditioning);
};
template <class Model>
concept TakesHiddenStates = requires(Model model, const Tensor& tensor, const Conditioning& conditioning) {
  model->forward(tensor, tensor, tensor,
                 {.class_labels = tensor,
                  .timestep_cond = tensor,
                  .attention_mask = tensor,
                  .added_cond_kwargs = conditioning.added_cond_kwargs,
                  .down_block_additional_residuals = conditioning.down_block_additional_residuals,
                  .mid_block_additional_residual = tensor,
                  .down_intrablock_additional_residuals = conditioning.down_intrablock_additional_residuals,
                  .encoder_attention_mask = tensor});
};
template <class Model>
concept TakesLabelStruct = requires(Model model, const Tensor& tensor) {
  model->forward(tensor, tensor, {.class_labels = tensor});
};
template <class Model>
concept TakesTwoTensors = requires(Model model, const Tensor& tensor) {
  model->forward(tensor, tensor);
};
template <class Model>
concept TakesThreeTensors = requires(Model model, const Tensor& tensor) {
  model->forward(tensor, tensor, tensor);
};
}  // namespace detail

/// A pointer or holder of a torch::nn::Module whose `forward` has one of these forms and returns a tensor or
/// a struct with a tensor `sample`:
///  - `forward(sample, timesteps)`;
///  - `forward(sample, timesteps, {.class_labels = ...})`, as UNet2DModel;
///  - `forward(sample, timesteps, const Tensor& class_labels = {})`;
///  - `forward(sample, timesteps, encoder_hidden_states, {...})`, as UNet2DConditionModel;
///  - `forward(sample, timesteps, const Conditioning&)`, which receives every input. The extra channels are
///    not concatenated to the sample.
template <class Model>
concept DenoisingModel = requires(Model model) {
  { *model.operator->() } -> std::convertible_to<torch::nn::Module&>;
}
&&(detail::TakesTwoTensors<Model> || detail::TakesConditioning<Model> || detail::TakesHiddenStates<Model>);

/// Returns the properties of a model. If the model has a method `denoiser_info()`, its result is returned.
/// Otherwise they are derived from the fields of `config()` and the signature of `forward`.
/// @param model a holder or pointer that is not empty
/// @return the properties
template <DenoisingModel Model>
DenoiserInfo denoiser_info(Model model) {
  if constexpr (requires { DenoiserInfo(model->denoiser_info()); }) return model->denoiser_info();
  DenoiserInfo info;
  info.takes_encoder_hidden_states = detail::TakesHiddenStates<Model> || detail::TakesConditioning<Model>;
  info.takes_class_labels = detail::TakesConditioning<Model> || detail::TakesHiddenStates<Model> ||
                            detail::TakesLabelStruct<Model> || detail::TakesThreeTensors<Model>;
  info.dropout = detail::largest_dropout(*model.operator->());
  if constexpr (requires { model->config(); }) {
    const auto& config = model->config();
    if constexpr (requires { info.in_channels = config.in_channels; }) info.in_channels = config.in_channels;
    if constexpr (requires { info.out_channels = config.out_channels; })
      info.out_channels = config.out_channels;
    if constexpr (requires { info.num_class_embeds = config.num_class_embeds; }) {
      info.num_class_embeds = config.num_class_embeds;
      bool has_embedding_type = false;
      if constexpr (requires { config.class_embed_type.has_value(); })
        has_embedding_type = config.class_embed_type.has_value();
      info.takes_class_labels =
          info.takes_class_labels && (info.num_class_embeds.has_value() || has_embedding_type);
      // With an embedding type, labels are no indices of a table.
      if (has_embedding_type) info.num_class_embeds.reset();
    }
    if constexpr (requires { std::string(config.time_embedding_type.name()); })
      info.time_embedding_type = std::string(config.time_embedding_type.name());
    if constexpr (requires { info.time_embedding_type = config.time_embedding_type; })
      info.time_embedding_type = config.time_embedding_type;
    if constexpr (requires { info.dropout = config.dropout; })
      info.dropout = std::max(info.dropout, static_cast<double>(config.dropout));
  }
  return info;
}

/// Makes a Denoiser that calls the model's `forward`. The model is shared, not copied.
/// @param model a holder or pointer that is not empty
/// @return the denoiser
/// @throws ConfigError when the denoiser is called, naming an input of the conditioning that the model does
///   not take
template <DenoisingModel Model>
Denoiser make_denoiser(Model model) {
  return [model = std::move(model)](const Tensor& noisy, const Tensor& timesteps,
                                    const Conditioning& given) mutable -> Tensor {
    if constexpr (detail::TakesConditioning<Model>) {
      return detail::prediction_of(model->forward(noisy, timesteps, given));
    } else if constexpr (detail::TakesHiddenStates<Model>) {
      return detail::prediction_of(
          model->forward(detail::with_extra_channels(noisy, given), timesteps, given.encoder_hidden_states,
                         {.class_labels = given.class_labels,
                          .timestep_cond = given.timestep_cond,
                          .attention_mask = given.attention_mask,
                          .added_cond_kwargs = given.added_cond_kwargs,
                          .down_block_additional_residuals = given.down_block_additional_residuals,
                          .mid_block_additional_residual = given.mid_block_additional_residual,
                          .down_intrablock_additional_residuals = given.down_intrablock_additional_residuals,
                          .encoder_attention_mask = given.encoder_attention_mask}));
    } else if constexpr (detail::TakesLabelStruct<Model>) {
      detail::refuse_inputs(given, {"class_labels", "extra_channels"}, *model.operator->());
      const Tensor sample = detail::with_extra_channels(noisy, given);
      if (!given.class_labels.defined()) return detail::prediction_of(model->forward(sample, timesteps));
      return detail::prediction_of(model->forward(sample, timesteps, {.class_labels = given.class_labels}));
    } else if constexpr (detail::TakesThreeTensors<Model>) {
      detail::refuse_inputs(given, {"class_labels", "extra_channels"}, *model.operator->());
      const Tensor sample = detail::with_extra_channels(noisy, given);
      if (!given.class_labels.defined()) return detail::prediction_of(model->forward(sample, timesteps));
      return detail::prediction_of(model->forward(sample, timesteps, given.class_labels));
    } else {
      detail::refuse_inputs(given, {"extra_channels"}, *model.operator->());
      return detail::prediction_of(model->forward(detail::with_extra_channels(noisy, given), timesteps));
    }
  };
}

}  // namespace diffusers
