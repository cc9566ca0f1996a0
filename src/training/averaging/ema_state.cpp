// The state of an EMAModel in the config.json of the averaged model, as Python keeps it.

#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/training/ema.h>

#include "core/config_json.h"
#include "io/open_model_file.h"

namespace diffusers {
namespace {

constexpr const char* kConfigFile = "config.json";

}  // namespace

template <class Visitor>
void visit_fields(EMAModelState& state, Visitor&& visit) {
  visit("decay", state.config.decay);
  visit("min_decay", state.config.min_decay);
  visit("optimization_step", state.optimization_step);
  visit("update_after_step", state.config.update_after_step);
  visit("use_ema_warmup", state.config.use_ema_warmup);
  visit("inv_gamma", state.config.inv_gamma);
  visit("power", state.config.power);
}

void save_ema_state(const EMAModelState& state, const std::filesystem::path& folder) {
  const std::string path = join_path(folder, kConfigFile);
  Json config = parse_json(read_model_file(folder, kConfigFile), path);
  require<FileError>(config.is_object(), "{} is no JSON object", escaped(path));
  config.update(config_json::fields_to_json(state));
  write_file(dump_json(config), path);
}

EMAModelState load_ema_state(const std::filesystem::path& folder) {
  const std::string path = join_path(folder, kConfigFile);
  EMAModelState state;
  config_json::fields_from_json(parse_json(read_model_file(folder, kConfigFile), path), state, path);
  return state;
}

EMAModel EMAModel::from_pretrained(const std::filesystem::path& folder, const TensorMap& named_parameters) {
  const EMAModelState state = load_ema_state(folder);
  const WeightsReader weights(folder);
  std::vector<Tensor> parameters;
  std::vector<Tensor> averages;
  for (const auto& [name, parameter] : named_parameters) {
    require<FileError>(weights.contains(name), "{} lacks the average of \"{}\"", escaped(weights.path()),
                       name);
    parameters.push_back(parameter);
    averages.push_back(weights.get(name));
  }
  EMAModel ema(parameters, state.config);
  ema.load_state(state);
  ema.load_shadow_params(averages);
  return ema;
}

}  // namespace diffusers
