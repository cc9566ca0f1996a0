#include "schedulers/scheduler_config.h"

#include <algorithm>
#include <array>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>

#include "core/config_fields.h"
#include "core/diffusers_version.h"
#include "core/model_class.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "schedulers/registry.h"

namespace diffusers {
namespace {

// Config keys of the schedulers that are compatible with each other in Python 0.42.1
// (KarrasDiffusionSchedulers).
constexpr std::array<std::string_view, 44> kKarrasKeys{"algorithm_type",
                                                       "beta_end",
                                                       "beta_schedule",
                                                       "beta_start",
                                                       "clip_sample",
                                                       "clip_sample_range",
                                                       "disable_corrector",
                                                       "dynamic_thresholding_ratio",
                                                       "euler_at_final",
                                                       "final_sigmas_type",
                                                       "flow_shift",
                                                       "interpolation_type",
                                                       "lambda_min_clipped",
                                                       "lower_order_final",
                                                       "noise_sampler_seed",
                                                       "num_train_timesteps",
                                                       "predict_x0",
                                                       "prediction_type",
                                                       "rescale_betas_zero_snr",
                                                       "rho",
                                                       "sample_max_value",
                                                       "set_alpha_to_one",
                                                       "shift_terminal",
                                                       "sigma_data",
                                                       "sigma_max",
                                                       "sigma_min",
                                                       "sigma_schedule",
                                                       "skip_prk_steps",
                                                       "solver_order",
                                                       "solver_p",
                                                       "solver_type",
                                                       "steps_offset",
                                                       "thresholding",
                                                       "time_shift_type",
                                                       "timestep_spacing",
                                                       "timestep_type",
                                                       "trained_betas",
                                                       "use_beta_sigmas",
                                                       "use_dynamic_shifting",
                                                       "use_exponential_sigmas",
                                                       "use_flow_sigmas",
                                                       "use_karras_sigmas",
                                                       "use_lu_lambdas",
                                                       "variance_type"};

template <class Names>
bool holds_name(const Names& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string class_name_in(const Json& config) {
  const auto found = config.find("_class_name");
  return found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// Parses a config. It throws ConfigError instead of FileError, because the text may not come from a file.
Json parse_config(std::string_view text, std::string_view where) {
  try {
    Json json = parse_json(text, where);
    require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
    return json;
  } catch (const FileError& error) {
    throw ConfigError(error.what());
  }
}

/// Parses the overrides. Each key must be a field of the class or a key of the config.
Json parse_overrides(const ConfigOverrides& overrides, const Json& config, std::string_view class_name,
                     const std::vector<std::string>& config_keys) {
  if (overrides.empty()) return Json::object();
  Json values = parse_config(overrides.json(), fmt::format("the overrides of {}", class_name));
  for (const auto& [key, value] : values.items())
    require<ConfigError>(!key.starts_with('_') && (holds_name(config_keys, key) || config.contains(key)),
                         "{}: the override \"{}\" is no field of its config; expected one of: {}", class_name,
                         key, fmt::join(config_keys, ", "));
  return values;
}

/// Removes the keys that `_use_default_values` lists, because they count as missing.
void remove_default_values(Json& config, std::string_view class_name) {
  const auto defaults = config.find("_use_default_values");
  if (defaults == config.end()) return;
  require<ConfigError>(defaults->is_array(), "{}: _use_default_values is {}, expected a list", class_name,
                       json_excerpt(*defaults));
  const Json keys = *defaults;
  for (const auto& key : keys)
    if (key.is_string()) config.erase(key.get<std::string>());
  config.erase("_use_default_values");
}

/// Warns about the keys in `unknown` that no compatible scheduler has.
void warn_about_unknown_keys(const Json& unknown, const Json& config, std::string_view class_name) {
  const bool is_karras_compatible = scheduler_registry::is_karras_compatible(class_name);
  const std::string saved_by = class_name_in(config);
  std::vector<std::string> keys_elsewhere;
  if (saved_by != class_name)
    keys_elsewhere = scheduler_registry::config_keys(saved_by).value_or(keys_elsewhere);
  Json reported = Json::object();
  for (const auto& [key, value] : unknown.items())
    if (!key.starts_with('_') && key != "quantization_config" &&
        !(is_karras_compatible && holds_name(kKarrasKeys, key)) && !holds_name(keys_elsewhere, key))
      reported[key] = value;
  if (!reported.empty())
    warn_once(
        fmt::format("The config attributes {} were passed to {}, but are not expected and will be ignored.",
                    json_excerpt(reported), class_name));
}

config_fields::VisitConfig visitor_of(const SchedulerConfigFields& fields) {
  return [fields](ConfigVisitor& visitor) { fields.visit(fields.config, visitor); };
}

}  // namespace

std::vector<std::string> scheduler_config_keys(const SchedulerConfigFields& fields) {
  return config_fields::keys(visitor_of(fields));
}

std::string read_scheduler_config(const std::filesystem::path& folder, const SchedulerLoadOptions& options) {
  const std::string base = folder.string();
  if (file_exists(base)) return read_text_file(base);
  const std::string nested = folder_inside(base, options.subfolder);
  // As in Python, the folder itself is searched if the subfolder has no config.
  const bool is_plain = !file_exists(join_path(nested, scheduler_config::kFileName)) &&
                        file_exists(join_path(base, scheduler_config::kFileName));
  return read_model_file(is_plain ? base : nested, scheduler_config::kFileName);
}

struct LoadedSchedulerConfig::Content {
  Json json;

  /// Returns the value of a key; null if the key is missing.
  Json value(std::string_view key) const {
    const auto found = json.find(std::string(key));
    return found == json.end() ? Json() : *found;
  }
};

LoadedSchedulerConfig LoadedSchedulerConfig::read(std::string_view class_name, std::string_view json,
                                                  const ConfigOverrides& overrides,
                                                  const SchedulerConfigFields& fields) {
  Json config = parse_config(json, class_name);
  // The config may belong to another scheduler, but not to a model.
  const std::string found = config_class(config, class_name, class_name);
  require<ConfigError>(!is_model_class(found), "this is the config of a {}, expected that of a scheduler, {}",
                       found, class_name);
  const Json values = parse_overrides(overrides, config, class_name, scheduler_config_keys(fields));
  remove_default_values(config, class_name);
  config.update(values);
  // Python treats None as false.
  const Json unknown =
      config_fields::from_json(config, visitor_of(fields), class_name, config_fields::NullBool::kFalse);
  warn_about_unknown_keys(unknown, config, class_name);
  LoadedSchedulerConfig loaded;
  loaded.content_ = std::make_shared<const Content>(Content{std::move(config)});
  return loaded;
}

std::string LoadedSchedulerConfig::compose(std::string_view class_name, const SchedulerConfigFields& fields,
                                           const SchedulerConfigFields& defaults) const {
  Json config = config_fields::to_json(visitor_of(fields));
  Json use_defaults = Json::array();
  if (!content_) {
    const Json default_values = config_fields::to_json(visitor_of(defaults));
    for (const auto& [key, value] : config.items())
      if (value == default_values.at(key)) use_defaults.push_back(key);
  } else {
    const Json& original = content_->json;
    for (const auto& [key, value] : config.items())
      if (!original.contains(key)) use_defaults.push_back(key);
    for (const auto& [key, value] : original.items()) {
      const auto own = config.find(key);
      // A field with its loaded value keeps the spelling of the file (1 or 1.0, null or false).
      if (own == config.end() || *own == value || (value.is_null() && *own == Json(false)))
        config[key] = value;
    }
  }
  if (!use_defaults.empty()) config["_use_default_values"] = use_defaults;
  config["_class_name"] = class_name;
  config["_diffusers_version"] = kDiffusersVersion;
  return dump_json(config);
}

std::optional<double> LoadedSchedulerConfig::number(std::string_view key) const {
  if (!content_) return std::nullopt;
  const Json value = content_->value(key);
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

std::optional<bool> LoadedSchedulerConfig::flag(std::string_view key) const {
  if (!content_) return std::nullopt;
  const Json value = content_->value(key);
  return value.is_boolean() ? std::optional(value.get<bool>()) : std::nullopt;
}

std::optional<std::string> LoadedSchedulerConfig::text(std::string_view key) const {
  if (!content_) return std::nullopt;
  const Json value = content_->value(key);
  return value.is_string() ? std::optional(value.get<std::string>()) : std::nullopt;
}

void Scheduler::save_pretrained(const std::filesystem::path& folder) const {
  Json config = parse_json(config_json(), class_name());
  config.erase("_use_default_values");
  config.erase("_ignore_files");
  create_folders(folder.string());
  write_file(dump_json(config), join_path(folder.string(), scheduler_config::kFileName));
}

std::unique_ptr<Scheduler> Scheduler::from_pretrained(const std::filesystem::path& folder,
                                                      const SchedulerLoadOptions& options) {
  return from_config(read_scheduler_config(folder, options));
}

inline namespace internal {
namespace scheduler_config {

std::string class_name_of(std::string_view json) {
  return class_name_in(parse_config(json, "scheduler config"));
}

std::string with_overrides(std::string_view json, const ConfigOverrides& overrides,
                           std::string_view class_name, const std::vector<std::string>& config_keys) {
  Json config = parse_config(json, class_name);
  const Json values = parse_overrides(overrides, config, class_name, config_keys);
  remove_default_values(config, class_name);
  config.update(values);
  return dump_json(config);
}

}  // namespace scheduler_config
}  // namespace internal
}  // namespace diffusers
