#include <array>
#include <map>
#include <set>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/attention_layer.h>
#include <diffusers/models/model.h>

#include <torch/types.h>

#include "core/require.h"
#include "io/open_model_file.h"
#include "io/save_model_files.h"
#include "models/layers/lora_layer.h"

namespace diffusers {
namespace {

constexpr std::size_t kMostNamesShown = 8;

std::string list_some(const std::vector<std::string>& names) {
  const auto shown = std::min(names.size(), kMostNamesShown);
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
  if (shown < names.size()) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

/// Maps names in old files to names in the model, for the attention layers that had other names before
/// diffusers 0.15.
std::map<std::string, std::string> legacy_names(const torch::nn::Module& model) {
  constexpr std::array<std::pair<const char*, const char*>, 4> kProjections{
      {{"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}}};
  std::map<std::string, std::string> names;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const auto* attention = item.value()->as<AttentionImpl>();
    if (attention == nullptr || !attention->from_deprecated_attn_block()) continue;
    for (const auto& [old_name, new_name] : kProjections)
      for (const char* kind : {".weight", ".bias"})
        names[item.key() + "." + old_name + kind] = item.key() + "." + new_name + kind;
  }
  return names;
}

/// Returns parameters and buffers by their state-dict names.
std::vector<std::pair<std::string, Tensor>> state_of(const torch::nn::Module& model) {
  std::vector<std::pair<std::string, Tensor>> state;
  for (const auto& item : model.named_parameters()) state.emplace_back(item.key(), item.value());
  for (const auto& item : model.named_buffers()) state.emplace_back(item.key(), item.value());
  return state;
}

/// Returns parameters and buffers by their state-dict names, without those of adapters.
std::vector<std::pair<std::string, Tensor>> saved_state_of(const torch::nn::Module& model) {
  auto state = state_of(model);
  const auto adapters = lora_tensors(model);
  std::erase_if(state,
                [&](const auto& item) { return adapters.contains(item.second.unsafeGetTensorImpl()); });
  return state;
}

/// Returns true for shapes that differ only by trailing dimensions of 1: in some old checkpoints attention
/// projections are 1x1 convolutions [C, D, 1, 1].
bool is_same_matrix(at::IntArrayRef in_file, at::IntArrayRef in_model) {
  return in_model.size() == 2 && in_file.size() == 4 && in_file.slice(0, 2) == in_model && in_file[2] == 1 &&
         in_file[3] == 1;
}

}  // namespace

std::string LoadReport::to_string() const {
  std::string text = fmt::format("{} tensors loaded from {}", num_loaded, path);
  if (num_converted > 0) text += fmt::format("\n{} of them converted from another dtype", num_converted);
  for (const auto& [old_name, new_name] : renamed_keys)
    text += fmt::format("\nrenamed: {} -> {}", old_name, new_name);
  for (const auto& key : unexpected_keys) text += fmt::format("\nnot used: {}", key);
  for (const auto& key : unknown_config_keys) text += fmt::format("\nunknown config key: {}", key);
  return text;
}

namespace detail {

std::filesystem::path model_folder(const std::filesystem::path& folder, const std::string& subfolder) {
  const std::string path = folder_inside(folder.string(), subfolder);
  require<FileError>(folder_exists(path), "{}: there is no such folder", path);
  return path;
}

std::string read_model_config(const std::filesystem::path& folder) {
  return read_model_file(folder.string(), "config.json");
}

void load_model_weights(torch::nn::Module& model, const std::filesystem::path& folder,
                        const ModelLoadOptions& options, LoadReport& report, const WeightsFormat& format) {
  require<ConfigError>(at::isFloatingType(options.dtype), "dtype is {}, expected a floating type",
                       dtype_name(options.dtype));
  const WeightsReader reader(folder.string(), format.basename, options.variant);
  report.path = reader.path();

  const auto legacy = legacy_names(model);
  std::map<std::string, std::string> source_of;
  std::set<std::string> used;
  for (const auto& name : reader.names()) {
    if (format.name_in_model != nullptr) {
      const auto name_in_model = format.name_in_model(name);
      if (name_in_model.empty()) {
        used.insert(name);
      } else {
        // If a file has both names, the name in the model is used.
        source_of.emplace(reader.contains(name_in_model) ? name : name_in_model, name);
      }
      continue;
    }
    const auto found = legacy.find(name);
    if (found == legacy.end() || reader.contains(found->second)) {
      source_of.emplace(name, name);
    } else {
      source_of.emplace(found->second, name);
      report.renamed_keys.emplace_back(name, found->second);
    }
  }

  auto state = saved_state_of(model);
  std::vector<std::string> missing;
  std::vector<std::string> mismatched;
  for (const auto& [name, tensor] : state) {
    const auto source = source_of.find(name);
    if (source == source_of.end()) {
      missing.push_back(name);
      continue;
    }
    used.insert(source->second);
    const auto& info = reader.info(source->second);
    const bool from_legacy = legacy.contains(source->second);
    if (tensor.sizes() != info.shape && !(from_legacy && is_same_matrix(info.shape, tensor.sizes())))
      mismatched.push_back(fmt::format("{} is {} in the file and {} in the model", source->second,
                                       shape_string(info.shape), shape_string(tensor.sizes())));
  }
  require<FileError>(missing.empty(), "{}: {} of the model's {} tensors are missing: {}", report.path,
                     missing.size(), state.size(), list_some(missing));
  require<FileError>(mismatched.empty(), "{}: {} tensors have another shape than in the model: {}",
                     report.path, mismatched.size(), list_some(mismatched));
  for (const auto& name : reader.names())
    if (!used.contains(name)) report.unexpected_keys.push_back(name);
  if (!report.unexpected_keys.empty()) {
    log_message(LogLevel::kWarning,
                fmt::format("{}: {} tensors are not part of the model and were not used: {}", report.path,
                            report.unexpected_keys.size(), list_some(report.unexpected_keys)));
  }

  const torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : state) {
    const auto& source = source_of.at(name);
    auto loaded = reader.get(source, options.device, options.dtype);
    if (reader.info(source).dtype != loaded.scalar_type()) ++report.num_converted;
    tensor.set_data(loaded.view(tensor.sizes()));
    ++report.num_loaded;
  }
}

void save_model(const torch::nn::Module& model, const std::filesystem::path& folder,
                const std::string& config_json, const ModelSaveOptions& options,
                const WeightsFormat& format) {
  TensorMap tensors;
  for (auto& [name, tensor] : saved_state_of(model))
    tensors.insert(format.name_in_file != nullptr ? format.name_in_file(name) : name, tensor.detach());
  save_model_files(tensors, folder.string(), config_json, format.basename,
                   {.variant = options.variant, .max_shard_size = options.max_shard_size});
}

void copy_model_state(const torch::nn::Module& from, torch::nn::Module& to,
                      const std::optional<at::Device>& device) {
  const torch::NoGradGuard no_grad;
  copy_lora_adapters(from, to);
  const auto sources = state_of(from);
  auto targets = state_of(to);
  require(sources.size() == targets.size(), "a model with {} tensors cannot be cloned into one with {}",
          sources.size(), targets.size());
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const auto& source = sources[i].second;
    targets[i].second.set_data(
        source.detach().to(device.value_or(source.device()), /*non_blocking=*/false, /*copy=*/true));
    targets[i].second.requires_grad_(source.requires_grad());
  }
  const auto from_modules = from.modules();
  const auto to_modules = to.modules();
  for (std::size_t i = 0; i < from_modules.size(); ++i)
    if (to_modules[i]->is_training() != from_modules[i]->is_training())
      to_modules[i]->train(from_modules[i]->is_training());
}

int64_t count_parameters(const torch::nn::Module& model, bool only_trainable) {
  int64_t count = 0;
  for (const auto& parameter : model.parameters())
    if (!only_trainable || parameter.requires_grad()) count += parameter.numel();
  return count;
}

std::map<std::string, std::string> renamed_tensors(const torch::nn::Module& model) {
  return legacy_names(model);
}

}  // namespace detail
}  // namespace diffusers
