#include "models/layers/lora_metadata.h"

#include <cmath>
#include <set>
#include <string_view>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

Json json_of(const LoraTargets& targets) {
  if (targets.empty()) return nullptr;
  return targets.is_list() ? Json(targets.values()) : Json(targets.value());
}

/// Writes integers as PEFT does.
Json json_of(LoraAlpha alpha) {
  const double value = alpha;
  const double rounded = std::nearbyint(value);
  if (value == rounded && std::abs(value) < 1e15) return static_cast<int64_t>(rounded);
  return value;
}

/// Fields of PEFT that do not change what a loaded adapter computes.
const std::set<std::string_view>& unused_fields() {
  static const std::set<std::string_view> fields{"auto_mapping",
                                                 "base_model_name_or_path",
                                                 "revision",
                                                 "task_type",
                                                 "inference_mode",
                                                 "peft_version",
                                                 "layers_to_transform",
                                                 "layers_pattern",
                                                 "megatron_core",
                                                 "megatron_config",
                                                 "runtime_config",
                                                 "qalora_group_size",
                                                 "loftq_config",
                                                 "eva_config",
                                                 "corda_config",
                                                 "lora_ga_config",
                                                 "ensure_weight_tying",
                                                 "trainable_token_indices"};
  return fields;
}

/// Reads the fields of one config.
class LoraMetadataReader {
 public:
  LoraMetadataReader(const std::string& where, const std::string& prefix, LoraConfig& config)
      : where_(where), prefix_(prefix), config_(config) {}

  void read(const std::string& field, const Json& value) {
    if (field == "r") {
      config_.r = integer(field, value);
    } else if (field == "lora_alpha") {
      config_.lora_alpha = number(field, value);
    } else if (field == "lora_dropout") {
      config_.lora_dropout = number(field, value);
    } else if (field == "init_lora_weights") {
      if (!value.is_boolean() && !value.is_string()) wrong(field, value, "a boolean or a string");
      config_.init_lora_weights = value.is_string() ? value.get<std::string>() : value.dump();
    } else if (field == "target_modules") {
      config_.target_modules = targets(field, value);
    } else if (field == "exclude_modules") {
      config_.exclude_modules = targets(field, value);
    } else if (field == "use_rslora") {
      config_.use_rslora = flag(field, value);
    } else if (field == "use_dora") {
      config_.use_dora = flag(field, value);
    } else if (field == "rank_pattern") {
      for (const auto& item : pattern(field, value).items())
        config_.rank_pattern.emplace_back(item.key(), integer(field, item.value()));
    } else if (field == "alpha_pattern") {
      for (const auto& item : pattern(field, value).items())
        config_.alpha_pattern.emplace_back(item.key(), number(field, item.value()));
    } else if (field == "bias") {
      if (!value.is_string()) wrong(field, value, "a string");
      config_.bias = value.get<std::string>();
    } else if (field == "peft_type") {
      if (value != "LORA") wrong(field, value, "\"LORA\"");
    } else if (unused_fields().count(field) == 0 && !is_off(value)) {
      wrong(field, value, "no such setting, since it is not supported");
    }
  }

 private:
  [[noreturn]] void wrong(const std::string& field, const Json& value, const char* expected) const {
    fail<ConfigError>("{}: lora_adapter_metadata: {}.{} is {}, expected {}", where_, prefix_, field,
                      json_excerpt(value), expected);
  }
  static bool is_off(const Json& value) {
    return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
  }
  int64_t integer(const std::string& field, const Json& value) const {
    if (!value.is_number_integer()) wrong(field, value, "an integer");
    return value.get<int64_t>();
  }
  double number(const std::string& field, const Json& value) const {
    if (!value.is_number()) wrong(field, value, "a number");
    return value.get<double>();
  }
  bool flag(const std::string& field, const Json& value) const {
    if (!value.is_boolean()) wrong(field, value, "true or false");
    return value.get<bool>();
  }
  const Json& pattern(const std::string& field, const Json& value) const {
    if (!value.is_object() && !value.is_null()) wrong(field, value, "an object");
    return value;
  }
  LoraTargets targets(const std::string& field, const Json& value) const {
    if (value.is_null()) return {};
    if (value.is_string()) return LoraTargets(value.get<std::string>().c_str());
    if (!value.is_array()) wrong(field, value, "a string or a list of strings");
    std::vector<std::string> names;
    for (const auto& name : value) {
      if (!name.is_string()) wrong(field, value, "a string or a list of strings");
      names.push_back(name.get<std::string>());
    }
    return LoraTargets(std::move(names));
  }

  const std::string& where_;
  const std::string& prefix_;
  LoraConfig& config_;
};

}  // namespace

void write_lora_metadata(Json& metadata, const std::string& prefix, const LoraConfig& config) {
  const auto set = [&](const char* field, Json value) { metadata[prefix + "." + field] = std::move(value); };
  Json ranks = Json::object();
  for (const auto& [key, rank] : config.rank_pattern) ranks[key] = rank;
  Json alphas = Json::object();
  for (const auto& [key, alpha] : config.alpha_pattern) alphas[key] = json_of(alpha);
  const auto& init = config.init_lora_weights;
  set("peft_type", "LORA");
  set("r", config.r);
  set("lora_alpha", json_of(config.lora_alpha));
  set("lora_dropout", config.lora_dropout);
  set("init_lora_weights", init == "gaussian" ? Json(init) : Json(init != "false"));
  set("target_modules", json_of(config.target_modules));
  set("exclude_modules", json_of(config.exclude_modules));
  set("use_rslora", config.use_rslora);
  set("use_dora", config.use_dora);
  set("rank_pattern", std::move(ranks));
  set("alpha_pattern", std::move(alphas));
  set("bias", config.bias);
}

bool read_lora_metadata(const Json& metadata, const std::string& prefix, const std::string& where,
                        LoraConfig& config) {
  require<FileError>(metadata.is_object(), "{}: lora_adapter_metadata is {}, expected an object", where,
                     json_excerpt(metadata));
  LoraMetadataReader reader(where, prefix, config);
  bool found = false;
  for (const auto& item : metadata.items()) {
    const std::string start = prefix + ".";
    if (!item.key().starts_with(start)) continue;
    found = true;
    reader.read(item.key().substr(start.size()), item.value());
  }
  return found;
}

}  // namespace internal
}  // namespace diffusers
