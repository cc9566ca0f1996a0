#include "schedulers/registry.h"

#include <algorithm>
#include <array>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/schedulers/cm_stochastic_iterative_scheduler.h>
#include <diffusers/schedulers/ddim_inverse_scheduler.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/deis_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_inverse_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_heun_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/ipndm_scheduler.h>
#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/lms_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "core/diffusers_version.h"
#include "core/model_class.h"
#include "core/require.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

struct RegisteredScheduler {
  std::string_view class_name;
  bool karras_compatible;  // Python's `_compatibles` is KarrasDiffusionSchedulers
  std::unique_ptr<Scheduler> (*create)(std::string_view json);
  std::vector<std::string> (*config_keys)();
};

template <class S>
constexpr RegisteredScheduler registered(bool karras_compatible) {
  return {S::kClassName, karras_compatible,
          [](std::string_view json) -> std::unique_ptr<Scheduler> {
            return std::make_unique<S>(S::from_config(json));
          },
          &S::config_keys};
}

constexpr std::array kSchedulers{
    registered<DDPMScheduler>(true),
    registered<DDIMScheduler>(true),
    registered<PNDMScheduler>(true),
    registered<LMSDiscreteScheduler>(true),
    registered<EulerDiscreteScheduler>(true),
    registered<EulerAncestralDiscreteScheduler>(true),
    registered<HeunDiscreteScheduler>(true),
    registered<KDPM2DiscreteScheduler>(true),
    registered<KDPM2AncestralDiscreteScheduler>(true),
    registered<DPMSolverMultistepScheduler>(true),
    registered<DPMSolverMultistepInverseScheduler>(true),
    registered<DPMSolverSinglestepScheduler>(true),
    registered<DPMSolverSDEScheduler>(true),
    registered<DEISMultistepScheduler>(true),
    registered<UniPCMultistepScheduler>(true),
    registered<SASolverScheduler>(true),
    registered<DDIMInverseScheduler>(false),
    registered<LCMScheduler>(false),
    registered<TCDScheduler>(false),
    registered<IPNDMScheduler>(false),
    registered<EDMEulerScheduler>(false),
    registered<EDMDPMSolverMultistepScheduler>(false),
    registered<FlowMatchEulerDiscreteScheduler>(false),
    registered<FlowMatchHeunDiscreteScheduler>(false),
    registered<CMStochasticIterativeScheduler>(false),
    registered<ScoreSdeVeScheduler>(false),
    registered<RePaintScheduler>(false),
    registered<UnCLIPScheduler>(false),
};

// The config keys of the schedulers that Python 0.42.1 calls compatible with each other
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

const RegisteredScheduler* find_scheduler(std::string_view class_name) {
  const auto found = std::find_if(kSchedulers.begin(), kSchedulers.end(),
                                  [&](const auto& entry) { return entry.class_name == class_name; });
  return found == kSchedulers.end() ? nullptr : &*found;
}

std::string class_name_of(const Json& config) {
  const auto found = config.find("_class_name");
  return found != config.end() && found->is_string() ? found->get<std::string>() : std::string();
}

/// Takes FileError for ConfigError: the text need not come from a file.
Json parse_object(std::string_view text, std::string_view where) {
  try {
    Json json = parse_json(text, where);
    require<ConfigError>(json.is_object(), "{}: expected a JSON object", where);
    return json;
  } catch (const FileError& error) {
    throw ConfigError(error.what());
  }
}

}  // namespace

std::unique_ptr<Scheduler> Scheduler::from_config(std::string_view json) {
  const std::string class_name = class_name_of(parse_object(json, "scheduler config"));
  const RegisteredScheduler* entry = find_scheduler(class_name);
  if (entry == nullptr) {
    std::vector<std::string_view> names;
    for (const auto& scheduler : kSchedulers) names.push_back(scheduler.class_name);
    fail<ConfigError>("scheduler config: _class_name is \"{}\", expected one of: {}", class_name,
                      fmt::join(names, ", "));
  }
  return entry->create(json);
}

std::unique_ptr<Scheduler> Scheduler::from_pretrained(const std::filesystem::path& folder,
                                                      const SchedulerLoadOptions& options) {
  return from_config(scheduler_config::read(folder, options));
}

void Scheduler::save_pretrained(const std::filesystem::path& folder) const {
  Json config = parse_json(config_json(), class_name());
  config.erase("_use_default_values");
  config.erase("_ignore_files");
  create_folders(folder.string());
  write_file_atomically(join_path(folder.string(), scheduler_config::kFileName), dump_json(config));
}

namespace scheduler_config {

Json parse(std::string_view text, std::string_view class_name, std::string_view overrides) {
  Json config = parse_object(text, class_name);
  // Schedulers convert into each other, but not models into schedulers.
  const std::string found = config_class(config, class_name, class_name);
  require<ConfigError>(!is_model_class(found), "this is the config of a {}, expected that of a scheduler, {}",
                       found, class_name);
  if (const auto defaults = config.find("_use_default_values"); defaults != config.end()) {
    require<ConfigError>(defaults->is_array(), "{}: _use_default_values is {}, expected a list", class_name,
                         json_excerpt(*defaults));
    const Json keys = *defaults;
    for (const auto& key : keys)
      if (key.is_string()) config.erase(key.get<std::string>());
    config.erase("_use_default_values");
  }
  if (!overrides.empty()) config.update(parse_object(overrides, class_name));
  return config;
}

void warn_about_unknown_keys(const Json& unknown, const Json& config, std::string_view class_name) {
  const RegisteredScheduler* own = find_scheduler(class_name);
  const RegisteredScheduler* saved_by = find_scheduler(class_name_of(config));
  const auto known_elsewhere = [&](const std::string& key) {
    if (own != nullptr && own->karras_compatible &&
        std::find(kKarrasKeys.begin(), kKarrasKeys.end(), key) != kKarrasKeys.end())
      return true;
    if (saved_by == nullptr || saved_by == own) return false;
    const auto keys = saved_by->config_keys();
    return std::find(keys.begin(), keys.end(), key) != keys.end();
  };
  Json reported = Json::object();
  for (const auto& [key, value] : unknown.items())
    if (!key.starts_with('_') && key != "quantization_config" && !known_elsewhere(key)) reported[key] = value;
  if (!reported.empty())
    warn_once(
        fmt::format("The config attributes {} were passed to {}, but are not expected and will be ignored.",
                    json_excerpt(reported), class_name));
}

std::string read(const std::filesystem::path& folder, const SchedulerLoadOptions& options) {
  const std::string base = folder.string();
  if (file_exists(base)) return read_text_file(base);
  const std::string nested = folder_inside(base, options.subfolder);
  // Python looks into the folder itself where the subfolder has no config.
  const bool is_plain = !file_exists(join_path(nested, kFileName)) && file_exists(join_path(base, kFileName));
  return read_model_file(is_plain ? base : nested, kFileName);
}

std::string compose(Json fields, const Json& defaults, const std::string& loaded,
                    std::string_view class_name) {
  Json config = std::move(fields);
  Json use_defaults = Json::array();
  if (loaded.empty()) {
    for (const auto& [key, value] : config.items())
      if (value == defaults.at(key)) use_defaults.push_back(key);
  } else {
    const Json original = parse_json(loaded, class_name);
    for (const auto& [key, value] : config.items())
      if (!original.contains(key)) use_defaults.push_back(key);
    for (const auto& [key, value] : original.items()) {
      const auto own = config.find(key);
      // A field that still holds what was loaded keeps its spelling (1 against 1.0, null against false).
      if (own == config.end() || *own == value || (value.is_null() && *own == Json(false)))
        config[key] = value;
    }
  }
  if (!use_defaults.empty()) config["_use_default_values"] = use_defaults;
  config["_class_name"] = class_name;
  config["_diffusers_version"] = kDiffusersVersion;
  return dump_json(config);
}

}  // namespace scheduler_config
}  // namespace diffusers
