#include "models/layers/lora_keys.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string_view>

#include "core/require.h"
#include "models/layers/lora_indexed_keys.h"
#include "models/layers/lora_layer.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr std::size_t kMostKeysShown = 8;

enum class LoraKind { kA, kB, kMagnitude, kAlpha };

struct LoraSuffix {
  std::string_view text;
  LoraKind kind;
};
/// Longer endings come before those that they end with.
constexpr std::array<LoraSuffix, 13> kSuffixes{{
    {".lora_linear_layer.down.weight", LoraKind::kA},
    {".lora_linear_layer.up.weight", LoraKind::kB},
    {"_lora.down.weight", LoraKind::kA},
    {"_lora.up.weight", LoraKind::kB},
    {".lora.down.weight", LoraKind::kA},
    {".lora.up.weight", LoraKind::kB},
    {".lora_down.weight", LoraKind::kA},
    {".lora_up.weight", LoraKind::kB},
    {".lora_A.weight", LoraKind::kA},
    {".lora_B.weight", LoraKind::kB},
    {".lora_magnitude_vector.weight", LoraKind::kMagnitude},
    {".lora_magnitude_vector", LoraKind::kMagnitude},
    {".alpha", LoraKind::kAlpha},
}};

struct LoraKohyaPrefix {
  std::string_view text;
  std::size_t model;  ///< index of the component
};
constexpr std::array<LoraKohyaPrefix, 4> kKohyaPrefixes{
    {{"lora_unet_", 0}, {"lora_te_", 1}, {"lora_te1_", 1}, {"lora_te2_", 2}}};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (auto at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

bool take_prefix(std::string& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.erase(0, prefix.size());
  return true;
}

bool take_suffix(std::string& text, std::string_view suffix) {
  if (!text.ends_with(suffix)) return false;
  text.erase(text.size() - suffix.size());
  return true;
}

std::string underscored(std::string path) {
  std::replace(path.begin(), path.end(), '.', '_');
  return path;
}

/// Finds the layers of a model by the names that files use.
class LoraPaths {
 public:
  explicit LoraPaths(const torch::nn::Module& model) {
    for (const auto& item : model.named_modules("", /*include_self=*/false))
      if (adaptable_weight(*item.value()).defined()) paths_.insert(item.key());
    int64_t layers_per_block = 0;
    while (contains_layer(fmt::format("down_blocks.0.resnets.{}.conv1", layers_per_block)))
      ++layers_per_block;
    const bool is_unet = layers_per_block > 0;
    for (const auto& path : paths_) {
      flat_.emplace(underscored(path), path);
      flat_.emplace("text_model_" + underscored(path), path);
      if (!is_unet) continue;
      const auto block = path.substr(0, path.find('.', sizeof("up_blocks.") - 1));
      const bool has_attention =
          path.starts_with("up_blocks.") && contains_layer(block + ".attentions.0.proj_in");
      flat_.emplace(underscored(original_unet_path(path, layers_per_block, has_attention)), path);
    }
  }
  bool contains_layer(const std::string& path) const { return paths_.count(path) != 0; }
  /// Returns the path of the layer of a dotted name, or an empty string.
  std::string find(std::string name) const {
    replace_all(name, ".processor.", ".");
    for (auto candidate : {name, name + ".0", "text_model." + name})
      if (contains_layer(candidate)) return candidate;
    if (take_prefix(name, "text_model.") && contains_layer(name)) return name;
    return {};
  }
  /// Returns the path of the layer of a name of kohya-ss, or an empty string.
  std::string find_flat(const std::string& name) const {
    const auto found = flat_.find(name);
    return found == flat_.end() ? std::string() : found->second;
  }

 private:
  std::set<std::string> paths_;
  std::map<std::string, std::string> flat_;
};

/// Returns names of attention processors and of text encoders before PEFT as layer names.
std::string layer_of_processor(std::string name, bool is_text) {
  if (!is_text) return name;
  for (const auto& [from, to] : {std::pair(".to_q", ".q_proj"), std::pair(".to_k", ".k_proj"),
                                 std::pair(".to_v", ".v_proj"), std::pair(".to_out", ".out_proj")})
    if (take_suffix(name, from)) return name + to;
  return name;
}

void refuse_formats(const SafetensorsFile& file) {
  for (const auto& name : file.names()) {
    const auto refuse = [&](std::string_view part, const char* format) {
      require<FileError>(name.find(part) == std::string::npos,
                         "{}: {} is a tensor of {}, which is not supported", file.path(), name, format);
    };
    refuse(".hada_", "LoHa");
    refuse(".lokr_", "LoKr");
    refuse(".dora_scale", "a DoRA of LyCORIS (the DoRA of PEFT is supported)");
    refuse(".lora_mid.", "a LoCon with a CP decomposition");
    refuse(".oft_", "OFT");
    refuse(".boft_", "BOFT");
    refuse(".vera_", "VeRA");
    refuse(".on_input", "(IA)^3");
    refuse(".ia3_", "(IA)^3");
    refuse(".hra_", "HRA");
    refuse(".fourierft_", "FourierFT");
    refuse(".a1.weight", "GLoRA");
    refuse(".w_norm", "norms of LyCORIS");
    const bool is_full = name.ends_with(".diff") || name.ends_with(".diff_b");
    require<FileError>(!is_full, "{}: {} is a tensor of full weights of LyCORIS, which is not supported",
                       file.path(), name);
  }
}

/// The place of a tensor.
struct LoraPlace {
  LoraFileModel* model = nullptr;
  std::string path;
};

class LoraReader {
 public:
  explicit LoraReader(std::vector<LoraFileModel>& models) : models_(models) {
    for (const auto& model : models)
      paths_.push_back(model.module ? std::make_unique<LoraPaths>(*model.module) : nullptr);
  }
  LoraPlace place(std::string layer, bool is_processor) {
    take_prefix(layer, "base_model.model.");
    for (const auto& [prefix, index] : kKohyaPrefixes) {
      if (index >= models_.size() || !take_prefix(layer, prefix)) continue;
      if (!paths_[index]) return {};
      return {&models_[index], paths_[index]->find_flat(layer)};
    }
    for (std::size_t i = 0; i < models_.size(); ++i) {
      auto inner = layer;
      if (!take_prefix(inner, std::string(models_[i].prefix) + ".")) continue;
      if (!paths_[i]) return {};
      return {&models_[i], paths_[i]->find(is_processor ? layer_of_processor(inner, i > 0) : inner)};
    }
    // A file of one model without a prefix.
    for (std::size_t i = 0; i < models_.size(); ++i) {
      if (!paths_[i]) continue;
      auto path = paths_[i]->find(is_processor ? layer_of_processor(layer, i > 0) : layer);
      if (!path.empty()) return {&models_[i], std::move(path)};
    }
    return {};
  }

 private:
  std::vector<LoraFileModel>& models_;
  std::vector<std::unique_ptr<LoraPaths>> paths_;
};

/// Replaces the start of a path by another one.
bool map_prefix(std::string& path, const std::string& from, const std::string& to) {
  if (!take_prefix(path, from)) return false;
  path.insert(0, to);
  return true;
}

}  // namespace

std::string original_unet_path(const std::string& path, int64_t layers_per_block, bool has_attention) {
  std::string name = path;
  if (map_prefix(name, "conv_in", "input_blocks.0.0") || map_prefix(name, "conv_out", "out.2") ||
      map_prefix(name, "time_embedding.linear_1", "time_embed.0") ||
      map_prefix(name, "time_embedding.linear_2", "time_embed.2") ||
      map_prefix(name, "add_embedding.linear_1", "label_emb.0.0") ||
      map_prefix(name, "add_embedding.linear_2", "label_emb.0.2"))
    return name;
  const auto resnet = [](std::string inner) {
    for (const auto& [from, to] :
         {std::pair("conv1", "in_layers.2"), std::pair("conv2", "out_layers.3"),
          std::pair("time_emb_proj", "emb_layers.1"), std::pair("conv_shortcut", "skip_connection")})
      if (inner == from) return std::string(to);
    return inner;
  };
  // KIND_blocks.BLOCK.LIST.INDEX.INNER, or mid_block.LIST.INDEX.INNER
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const auto end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  const bool middle = parts[0] == "mid_block";
  const std::size_t list = middle ? 1 : 2;
  if (parts.size() < list + 3 || (!middle && parts[0] != "down_blocks" && parts[0] != "up_blocks"))
    return name;
  const auto number = [&](std::size_t part) {
    const auto& digits = parts[part];
    const bool valid = !digits.empty() && digits.size() < 5 &&
                       std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; });
    return valid ? std::stoll(digits) : -1;
  };
  const int64_t block = middle ? 0 : number(1);
  const int64_t index = number(list + 1);
  if (block < 0 || index < 0) return name;
  std::string inner = parts[list + 2];
  for (std::size_t i = list + 3; i < parts.size(); ++i) inner += "." + parts[i];
  const auto& kind = parts[list];
  if (kind == "resnets") inner = resnet(inner);
  if (middle) return fmt::format("middle_block.{}.{}", kind == "attentions" ? 1 : 2 * index, inner);
  const int64_t first = block * (layers_per_block + 1);
  const bool down = parts[0] == "down_blocks";
  if (kind == "downsamplers") return fmt::format("input_blocks.{}.0.op", first + layers_per_block + 1);
  if (kind == "upsamplers")
    return fmt::format("output_blocks.{}.{}.{}", first + layers_per_block, has_attention ? 2 : 1, inner);
  return fmt::format("{}.{}.{}.{}", down ? "input_blocks" : "output_blocks", first + index + (down ? 1 : 0),
                     kind == "attentions" ? 1 : 0, inner);
}

void read_lora_layers(const SafetensorsFile& file, std::vector<LoraFileModel>& models) {
  refuse_formats(file);
  if (has_indexed_layers(file)) {
    read_indexed_layers(file, models);
    return;
  }
  LoraReader reader(models);
  std::vector<std::string> unknown;
  for (const auto& name : file.names()) {
    const auto* suffix = std::find_if(kSuffixes.begin(), kSuffixes.end(), [&](const LoraSuffix& candidate) {
      return name.ends_with(candidate.text);
    });
    LoraPlace place;
    if (suffix != kSuffixes.end()) {
      auto layer = name;
      take_suffix(layer, suffix->text);
      place = reader.place(layer, suffix->text.starts_with('_'));
    }
    if (place.path.empty()) {
      unknown.push_back(name);
      continue;
    }
    auto& tensors = place.model->layers[place.path];
    switch (suffix->kind) {
      case LoraKind::kA:
        tensors.lora_A = file.get(name);
        break;
      case LoraKind::kB:
        tensors.lora_B = file.get(name);
        break;
      case LoraKind::kMagnitude:
        tensors.magnitude = file.get(name);
        break;
      case LoraKind::kAlpha:
        require<FileError>(c10::multiply_integers(file.info(name).shape) == 1,
                           "{}: {} has shape {}, expected one number", file.path(), name,
                           shape_string(file.info(name).shape));
        tensors.alpha = file.get(name, at::kCPU, at::kDouble).item<double>();
        break;
    }
  }
  if (unknown.empty()) return;
  const auto count = unknown.size();
  if (count > kMostKeysShown) unknown.resize(kMostKeysShown);
  std::vector<std::string> present;
  for (const auto& model : models)
    if (model.module) present.emplace_back(model.prefix);
  fail<FileError>("{}: {} of {} tensors belong to no linear layer or convolution of {}: {}{}", file.path(),
                  count, file.names().size(), fmt::join(present, ", "), fmt::join(unknown, ", "),
                  count > kMostKeysShown ? ", ..." : "");
}

}  // namespace internal
}  // namespace diffusers
