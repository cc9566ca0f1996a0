#include <cmath>
#include <utility>

#include <diffusers/text/clip_text_model.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/model_config.h"
#include "text/clip_layers.h"
#include "text/clip_text_config.h"

namespace diffusers {
namespace {

/// eos_token_id of old configs, for any vocabulary. The end token is then the largest id, which is the end
/// token of CLIP.
constexpr int64_t kLegacyEosTokenId = 2;

constexpr std::string_view kPrefix = "text_model.";

/// Returns true for the tensor of position ids (0 to 76) in files from before transformers 4.31.
bool is_position_ids(std::string_view name) { return name.ends_with("embeddings.position_ids"); }

std::string without_prefix(const std::string& name) {
  if (is_position_ids(name)) return {};
  return name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
}

std::string with_prefix(const std::string& name) {
  if (is_position_ids(name)) return {};
  for (const std::string_view part : {"embeddings.", "encoder.", "final_layer_norm."})
    if (name.starts_with(part)) return std::string(kPrefix) + name;
  return name;
}

void require_integers(const char* name, const Tensor& ids) {
  require<TensorError>(at::isIntegralType(ids.scalar_type(), /*includeBool=*/false),
                       "{}: expected integers, got {}", name, describe(ids));
}

/// Checks that each id is in [0, count), on the CPU only. On other devices the check would synchronise, and
/// the embedding lookup checks the ids itself.
void require_in_range(const char* name, const Tensor& ids, const char* key, int64_t count) {
  if (!ids.is_cpu() || ids.numel() == 0) return;
  const auto lowest = ids.min().item<int64_t>();
  const auto highest = ids.max().item<int64_t>();
  require<TensorError>(lowest >= 0 && highest < count, "{}: expected numbers in [0, {} = {}), got {}", name,
                       key, count, lowest < 0 ? lowest : highest);
}

/// Checks input ids `[B, L]`.
Tensor check_input_ids(const Tensor& input_ids, const CLIPTextConfig& config, at::Device device) {
  require<TensorError>(input_ids.defined() && input_ids.dim() >= 1 && input_ids.size(-1) > 0,
                       "input_ids: expected integers [B, L], got {}", describe(input_ids));
  require_integers("input_ids", input_ids);
  require<TensorError>(input_ids.device() == device, "input_ids are on {}, the model on {}",
                       input_ids.device().str(), device.str());
  require<TensorError>(input_ids.size(-1) <= config.max_position_embeddings,
                       "input_ids: {} has more than max_position_embeddings = {} tokens",
                       shape_string(input_ids.sizes()), config.max_position_embeddings);
  require_in_range("input_ids", input_ids, "vocab_size", config.vocab_size);
  return input_ids.reshape({-1, input_ids.size(-1)}).to(at::kLong);
}

/// Checks position ids `[1 or B, L]`.
Tensor check_position_ids(const Tensor& given, const Tensor& input_ids, const CLIPTextConfig& config) {
  const auto length = input_ids.size(1);
  if (!given.defined()) return at::arange(length, input_ids.options()).unsqueeze(0);
  const auto position_ids = given.dim() == 1 ? given.unsqueeze(0) : given;
  const bool fits = position_ids.dim() == 2 && position_ids.size(1) == length &&
                    (position_ids.size(0) == input_ids.size(0) || position_ids.size(0) == 1);
  require<TensorError>(fits, "position_ids: expected integers [{} or 1, {}], got {}", input_ids.size(0),
                       length, describe(given));
  require_integers("position_ids", position_ids);
  require<TensorError>(position_ids.device() == input_ids.device(), "position_ids are on {}, input_ids on {}",
                       position_ids.device().str(), input_ids.device().str());
  require_in_range("position_ids", position_ids, "max_position_embeddings", config.max_position_embeddings);
  return position_ids.to(at::kLong);
}

/// Returns the attention mask `[B or 1, heads or 1, L, L]`; undefined for a purely causal mask.
Tensor attention_mask_of(const Tensor& attention_mask, const Tensor& hidden_states, int64_t heads) {
  if (!attention_mask.defined()) return {};
  const auto batch = hidden_states.size(0);
  const auto length = hidden_states.size(1);
  require<TensorError>(attention_mask.device() == hidden_states.device(),
                       "attention_mask is on {}, the model on {}", attention_mask.device().str(),
                       hidden_states.device().str());
  if (attention_mask.dim() == 4) {
    const int64_t scores[] = {batch, heads, length, length};
    require<TensorError>(
        at::is_expandable_to(attention_mask.sizes(), scores) &&
            (attention_mask.scalar_type() == at::kBool || attention_mask.is_floating_point()),
        "attention_mask: {} is not boolean or floating, or does not broadcast to the scores {}",
        describe(attention_mask), shape_string(scores));
    return attention_mask.scalar_type() == at::kBool ? attention_mask
                                                     : attention_mask.to(hidden_states.scalar_type());
  }
  require<TensorError>(
      attention_mask.dim() == 2 && attention_mask.size(0) == batch && attention_mask.size(1) == length,
      "attention_mask: expected [{}, {}] or scores [{}, {}, {}, {}], got {}", batch, length, batch, heads,
      length, length, describe(attention_mask));
  const auto attended = attention_mask.to(at::kBool);
  if (attended.all().item<bool>()) return {};
  const auto causal = at::ones({length, length}, attended.options()).tril();
  return causal.view({1, 1, length, length}).logical_and(attended.view({batch, 1, 1, length}));
}

/// Returns the states of the end tokens, `[B, hidden_size]`. As in Python, a sequence without an end token is
/// pooled at its first token.
Tensor pool(const Tensor& last_hidden_state, const Tensor& input_ids, int64_t eos_token_id) {
  const auto ends = eos_token_id == kLegacyEosTokenId ? input_ids.argmax(-1)
                                                      : input_ids.eq(eos_token_id).to(at::kInt).argmax(-1);
  return last_hidden_state.index({at::arange(input_ids.size(0), ends.options()), ends});
}

}  // namespace

CLIPTextModelImpl::CLIPTextModelImpl(CLIPTextConfig config) : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void CLIPTextModelImpl::reset() {
  const auto& c = config();
  clip::check_config(c, /*with_projection=*/false);
  embeddings_ = register_module("embeddings", std::make_shared<clip::TextEmbeddingsImpl>(c));
  encoder_ = register_module("encoder", std::make_shared<clip::EncoderImpl>(c));
  final_layer_norm_ = register_module("final_layer_norm", layers::LayerNorm(c.hidden_size, c.layer_norm_eps));
  if (layers::SkipInitGuard::active()) return;
  embeddings_->init_weights(c);
  encoder_->init_weights(c);
}

BaseModelOutputWithPooling CLIPTextModelImpl::forward(const Tensor& input_ids,
                                                      const CLIPTextModelForwardOptions& options) const {
  const ForwardMemoryScope memory(input_ids);
  const auto ids = check_input_ids(input_ids, config(), final_layer_norm_->weight.device());
  const auto positions = check_position_ids(options.position_ids, ids, config());
  const auto embedded = embeddings_->forward(ids, positions);
  const auto mask = attention_mask_of(options.attention_mask, embedded, config().num_attention_heads);

  BaseModelOutputWithPooling output;
  const auto encoded = encoder_->forward(embedded, mask, gradient_checkpointing_,
                                         options.output_hidden_states ? &output.hidden_states : nullptr);
  output.last_hidden_state = final_layer_norm_->forward(encoded);
  output.pooler_output = pool(output.last_hidden_state, ids, *config().eos_token_id);
  return output;
}

Tensor CLIPTextModelImpl::final_layer_norm(const Tensor& hidden_states) const {
  require<TensorError>(
      hidden_states.defined() && hidden_states.dim() >= 1 && hidden_states.size(-1) == config().hidden_size,
      "hidden_states: expected [B, L, {}], got {}", config().hidden_size, describe(hidden_states));
  return final_layer_norm_->forward(hidden_states);
}

Tensor CLIPTextModelImpl::get_input_embeddings() const { return embeddings_->token_weight(); }

void CLIPTextModelImpl::resize_token_embeddings(int64_t new_num_tokens) {
  auto resized = config();
  resized.vocab_size = new_num_tokens;
  clip::check_config(resized, /*with_projection=*/false);
  embeddings_->resize(new_num_tokens);
  mutable_config() = std::move(resized);
}

std::string CLIPTextModelImpl::config_json() const {
  return clip::write_config(config(), config_source(), kClassName, get_input_embeddings().scalar_type());
}

bool CLIPTextModelImpl::use_attention_mask() const {
  return clip::has_flag(config_source(), "use_attention_mask");
}

detail::WeightsFormat CLIPTextModelImpl::weights_format() {
  return {.basename = "model", .name_in_model = without_prefix, .name_in_file = [](const std::string& name) {
            return std::string(kPrefix) + name;
          }};
}

CLIPTextModelWithProjectionImpl::CLIPTextModelWithProjectionImpl(CLIPTextConfig config)
    : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void CLIPTextModelWithProjectionImpl::reset() {
  const auto& c = config();
  clip::check_config(c, /*with_projection=*/true);
  text_model_ = CLIPTextModel(c);
  register_module("text_model", text_model_.ptr());
  text_projection_ =
      register_module("text_projection", layers::Linear(c.hidden_size, *c.projection_dim, /*bias=*/false));
  if (layers::SkipInitGuard::active()) return;
  for (const double std :
       {clip::common_std(c), std::pow(static_cast<double>(c.hidden_size), -0.5) * c.initializer_factor})
    clip::draw_normal(text_projection_->weight, std);
}

CLIPTextModelOutput CLIPTextModelWithProjectionImpl::forward(
    const Tensor& input_ids, const CLIPTextModelForwardOptions& options) const {
  auto output = text_model_->forward(input_ids, options);
  return {.text_embeds = text_projection_->forward(output.pooler_output),
          .last_hidden_state = std::move(output.last_hidden_state),
          .hidden_states = std::move(output.hidden_states)};
}

void CLIPTextModelWithProjectionImpl::resize_token_embeddings(int64_t new_num_tokens) {
  text_model_->resize_token_embeddings(new_num_tokens);
  mutable_config().vocab_size = new_num_tokens;
}

void CLIPTextModelWithProjectionImpl::copy_settings(const CLIPTextModelWithProjectionImpl& other) {
  if (other.is_gradient_checkpointing()) {
    enable_gradient_checkpointing();
  } else {
    disable_gradient_checkpointing();
  }
}

std::string CLIPTextModelWithProjectionImpl::config_json() const {
  return clip::write_config(config(), config_source(), kClassName, get_input_embeddings().scalar_type());
}

detail::WeightsFormat CLIPTextModelWithProjectionImpl::weights_format() {
  return {.basename = "model", .name_in_model = with_prefix, .name_in_file = nullptr};
}

}  // namespace diffusers
