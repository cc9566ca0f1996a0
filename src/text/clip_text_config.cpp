#include "text/clip_text_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <diffusers/core/logging.h>

#include "core/config_json.h"
#include "core/json.h"
#include "core/model_class.h"
#include "core/require.h"
#include "text/clip_activation.h"

namespace diffusers {

template <class Visitor>
void visit_fields(CLIPTextConfig& config, Visitor&& visit) {
  visit("vocab_size", config.vocab_size);
  visit("hidden_size", config.hidden_size);
  visit("intermediate_size", config.intermediate_size);
  visit("projection_dim", config.projection_dim);
  visit("num_hidden_layers", config.num_hidden_layers);
  visit("num_attention_heads", config.num_attention_heads);
  visit("max_position_embeddings", config.max_position_embeddings);
  visit("hidden_act", config.hidden_act);
  visit("layer_norm_eps", config.layer_norm_eps);
  visit("attention_dropout", config.attention_dropout);
  visit("initializer_range", config.initializer_range);
  visit("initializer_factor", config.initializer_factor);
  visit("pad_token_id", config.pad_token_id);
  visit("bos_token_id", config.bos_token_id);
  visit("eos_token_id", config.eos_token_id);
}

namespace {

/// Checks the model type.
/// @throws ConfigError for a known model of transformers that is not CLIP's text encoder
void check_model_type(const Json& config, std::string_view where) {
  constexpr std::string_view kModelType = "clip_text_model";
  constexpr std::array<std::string_view, 16> kOtherTypes{"bert",
                                                         "chinese_clip",
                                                         "chinese_clip_text_model",
                                                         "clip",
                                                         "clip_vision_model",
                                                         "gemma2",
                                                         "gpt2",
                                                         "llama",
                                                         "mt5",
                                                         "qwen2_vl",
                                                         "roberta",
                                                         "siglip",
                                                         "t5",
                                                         "umt5",
                                                         "xlm-roberta",
                                                         "blip-2"};
  const auto type = config.find("model_type");
  if (type == config.end() || type->is_null() || *type == kModelType) return;
  require<ConfigError>(type->is_string(), "{}: model_type is {}, expected \"{}\"", where, json_excerpt(*type),
                       kModelType);
  const auto& found = type->get_ref<const std::string&>();
  require<ConfigError>(
      std::find(kOtherTypes.begin(), kOtherTypes.end(), found) == kOtherTypes.end(),
      "{}: this is the config of a model of type \"{}\", expected that of CLIP's text encoder, "
      "\"{}\"",
      where, found, kModelType);
  warn_once(fmt::format("{}: model_type is {}, expected \"{}\"", where, json_excerpt(*type), kModelType));
}

}  // namespace

/// Reads a config. In the config of a complete CLIP model only the keys of text_config are used. Keys that
/// transformers has for every model, and keys of old versions, are kept without a warning, as in
/// transformers.
void read_model_config(std::string_view json, std::string_view where, CLIPTextConfig& config,
                       std::string& source, LoadReport& /*report*/) {
  Json object = parse_json(json, where);
  require<ConfigError>(object.is_object(), "{}: expected a JSON object", where);
  // As in transformers, both classes read both configs and the config of a complete CLIP model.
  check_config_class(object, where, "CLIPTextModel", {"CLIPTextModelWithProjection", "CLIPModel"});
  if (const auto text = object.find("text_config"); text != object.end()) {
    require<ConfigError>(text->is_object(), "{}: text_config is no object", where);
    object = Json(*text);
  }
  check_model_type(object, where);
  config_json::fields_from_json(object, config, where);
  source = object.dump();
}

inline namespace internal {
namespace clip {
namespace {

/// Version of transformers whose config format is written.
constexpr std::string_view kTransformersVersion = "5.24.0";

/// Largest number of layers. More would take unlimited memory and time.
constexpr int64_t kMostLayers = 1000;
constexpr int64_t kMostChannels = 1 << 20;

void require_count(const char* key, int64_t value, int64_t most) {
  require<ConfigError>(value > 0 && value <= most, "{} is {}, expected a number from 1 to {}", key, value,
                       most);
}

void require_not_negative(const char* key, double value) {
  require<ConfigError>(std::isfinite(value) && value >= 0,
                       "{} is {}, expected a finite number that is not negative", key, value);
}

}  // namespace

bool has_flag(std::string_view source, std::string_view key) {
  if (source.empty()) return false;
  const Json config = parse_json(source, "the text encoder's config");
  const auto flag = config.find(std::string(key));
  return flag != config.end() && *flag == true;
}

void check_config(const CLIPTextConfig& config, bool with_projection) {
  require_count("vocab_size", config.vocab_size, INT32_MAX);
  require_count("hidden_size", config.hidden_size, kMostChannels);
  require_count("intermediate_size", config.intermediate_size, kMostChannels);
  require_count("num_hidden_layers", config.num_hidden_layers, kMostLayers);
  require_count("num_attention_heads", config.num_attention_heads, kMostChannels);
  require_count("max_position_embeddings", config.max_position_embeddings, INT32_MAX);
  require<ConfigError>(config.hidden_size % config.num_attention_heads == 0,
                       "hidden_size is {}, expected a multiple of num_attention_heads, {}",
                       config.hidden_size, config.num_attention_heads);
  if (with_projection) {
    require<ConfigError>(config.projection_dim.has_value(), "projection_dim is null, expected a number");
    require_count("projection_dim", *config.projection_dim, kMostChannels);
  }
  activation_function(config.hidden_act);
  require_not_negative("layer_norm_eps", config.layer_norm_eps);
  require<ConfigError>(config.attention_dropout >= 0 && config.attention_dropout <= 1,
                       "attention_dropout is {}, expected a probability in [0, 1]", config.attention_dropout);
  require_not_negative("initializer_range", config.initializer_range);
  require_not_negative("initializer_factor", config.initializer_factor);
  require<ConfigError>(config.eos_token_id.has_value(),
                       "eos_token_id is null, expected the token at which sequences are pooled");
}

std::string write_config(const CLIPTextConfig& config, std::string_view source, std::string_view class_name,
                         at::ScalarType dtype) {
  const Json fields = config_json::fields_to_json(config);
  Json json = source.empty() ? Json::object() : Json::parse(source);
  // A field with the loaded value keeps the spelling of the file (1 for 1.0).
  for (const auto& [key, value] : fields.items())
    if (!json.contains(key) || json[key] != value) json[key] = value;
  json["architectures"] = Json::array({class_name});
  json["model_type"] = "clip_text_model";
  json["dtype"] = dtype_name(dtype);
  json.erase("torch_dtype");
  json["transformers_version"] = kTransformersVersion;
  return dump_json(json);
}

}  // namespace clip
}  // namespace internal
}  // namespace diffusers
