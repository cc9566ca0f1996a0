#include "models/layers/lora_indexed_keys.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/json.h"
#include "core/require.h"
#include "models/layers/lora_layer.h"

namespace diffusers {
inline namespace internal {
namespace {

/// A name such as "unet:3:down".
struct IndexedKey {
  std::string model;
  std::size_t index = 0;
  bool is_up = false;
};

std::optional<IndexedKey> indexed_key(const std::string& name) {
  const auto first = name.find(':');
  const auto second = name.find(':', first == std::string::npos ? first : first + 1);
  if (second == std::string::npos) return std::nullopt;
  const std::string digits = name.substr(first + 1, second - first - 1);
  const std::string end = name.substr(second + 1);
  const bool is_number =
      !digits.empty() && digits.size() < 7 &&
      std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); });
  if (!is_number || (end != "up" && end != "down")) return std::nullopt;
  return IndexedKey{name.substr(0, first), static_cast<std::size_t>(std::stoul(digits)), end == "up"};
}

/// The last part of a path that is no number.
std::string_view last_word(std::string_view path) {
  const auto dot = path.rfind('.');
  const auto word = dot == std::string_view::npos ? path : path.substr(dot + 1);
  return word;
}

/// The class of Python's module at a path, as far as these files name it; empty for other modules.
std::string_view class_at(std::string_view path) {
  const auto word = last_word(path);
  if (word == "attn1" || word == "attn2") return "Attention";
  if (path.ends_with("ff.net.0")) return "GEGLU";
  if (word == "self_attn") return "CLIPAttention";
  const auto dot = path.rfind('.');
  if (dot != std::string_view::npos && path.substr(0, dot).ends_with("resnets")) return "ResnetBlock2D";
  return "";
}

/// The layers inside such a module, in Python's order.
std::vector<std::string> layers_in(std::string_view class_name) {
  if (class_name == "Attention") return {"to_q", "to_k", "to_v", "to_out.0"};
  if (class_name == "GEGLU") return {"proj"};
  if (class_name == "CLIPAttention") return {"k_proj", "v_proj", "q_proj", "out_proj"};
  return {"conv1", "time_emb_proj", "conv2", "conv_shortcut"};
}

/// The classes that the metadata names for a model.
std::set<std::string> target_classes(const SafetensorsFile& file, const std::string& model) {
  std::set<std::string> classes;
  const auto found = file.metadata().find(model);
  if (found == file.metadata().end()) {
    classes = model == "unet" ? std::set<std::string>{"Attention", "GEGLU"}
                              : std::set<std::string>{"CLIPAttention"};
    return classes;
  }
  const Json names = parse_json(found->second, file.path() + ": " + model);
  require<FileError>(names.is_array(), "{}: the metadata \"{}\" is {}, expected a list of classes",
                     file.path(), model, json_excerpt(names));
  for (const auto& name : names) {
    require<FileError>(name.is_string(), "{}: the metadata \"{}\" has {}, expected names of classes",
                       file.path(), model, json_excerpt(name));
    auto text = name.get<std::string>();
    if (text == "CrossAttention") text = "Attention";
    require<FileError>(
        text == "Attention" || text == "GEGLU" || text == "ResnetBlock2D" || text == "CLIPAttention",
        "{}: the layers of the class {} are adapted, which is not supported; expected "
        "CrossAttention, Attention, GEGLU, ResnetBlock2D or CLIPAttention",
        file.path(), text);
    classes.insert(text);
  }
  return classes;
}

/// The paths of the layers by their numbers.
/// @param feed_forward_second the order of diffusers before 0.15: a transformer block has its feed-forward
///   network before the second attention
std::vector<std::string> numbered_layers(const torch::nn::Module& model, const std::set<std::string>& classes,
                                         bool feed_forward_second) {
  const auto modules = model.named_modules("", /*include_self=*/false);
  std::vector<std::string> targets;
  for (const auto& item : modules)
    if (classes.count(std::string(class_at(item.key()))) != 0) targets.push_back(item.key());
  if (feed_forward_second)
    for (std::size_t i = 1; i < targets.size(); ++i)
      if (targets[i].ends_with("ff.net.0") && targets[i - 1].ends_with("attn2"))
        std::swap(targets[i], targets[i - 1]);
  std::vector<std::string> layers;
  for (const auto& target : targets)
    for (const auto& inner : layers_in(class_at(target))) {
      const std::string path = target + "." + inner;
      const auto* found = modules.find(path);
      if (found != nullptr && adaptable_weight(**found).defined()) layers.push_back(path);
    }
  return layers;
}

/// The two tensors of a layer.
struct IndexedLayer {
  Tensor down, up;
};

/// Returns a problem of layers at these paths; empty: they fit.
std::string misfit(const std::map<std::size_t, IndexedLayer>& layers, const torch::nn::Module& model,
                   const std::vector<std::string>& paths, const std::string& prefix) {
  if (layers.size() != paths.size() || layers.rbegin()->first + 1 != paths.size())
    return fmt::format("the file has {} layers of {}, numbered up to {}; the model has {} such layers",
                       layers.size(), prefix, layers.rbegin()->first, paths.size());
  const auto modules = model.named_modules("", /*include_self=*/false);
  for (const auto& [index, layer] : layers) {
    const Tensor weight = adaptable_weight(*modules[paths[index]]);
    const auto fits = [](const Tensor& tensor, int64_t dim, int64_t size) {
      return tensor.dim() >= 2 && tensor.size(dim) == size;
    };
    if (!fits(layer.down, 1, weight.size(1)) || !fits(layer.up, 0, weight.size(0)))
      return fmt::format("{}:{}:down and up have shapes {} and {}, but the layer {} has a weight {}", prefix,
                         index, shape_string(layer.down.sizes()), shape_string(layer.up.sizes()),
                         paths[index], shape_string(weight.sizes()));
  }
  return "";
}

}  // namespace

bool has_indexed_layers(const SafetensorsFile& file) {
  const auto& names = file.names();
  return std::any_of(names.begin(), names.end(),
                     [](const std::string& name) { return indexed_key(name).has_value(); });
}

void read_indexed_layers(const SafetensorsFile& file, std::vector<LoraFileModel>& models) {
  std::map<std::string, std::map<std::size_t, IndexedLayer>> found;
  for (const auto& name : file.names()) {
    const auto key = indexed_key(name);
    require<FileError>(key.has_value(), "{}: {} is no layer of a LoRA; expected names such as unet:0:down{}",
                       file.path(), name,
                       name.starts_with('<')
                           ? " (a learned embedding, which load_textual_inversion reads from a "
                             "file of its own)"
                           : "");
    auto& layer = found[key->model][key->index];
    (key->is_up ? layer.up : layer.down) = file.get(name);
  }
  for (const auto& [prefix, layers] : found) {
    const auto model =
        std::find_if(models.begin(), models.end(), [&, &wanted = prefix](const auto& candidate) {
          return candidate.module != nullptr && candidate.prefix == wanted;
        });
    require<FileError>(model != models.end(), "{}: the file has layers of {}, which there is no model for",
                       file.path(), prefix);
    for (const auto& [index, layer] : layers)
      require<FileError>(layer.down.defined() && layer.up.defined(), "{}: {}:{} has no {}", file.path(),
                         prefix, index, layer.down.defined() ? "up" : "down");
    const auto classes = target_classes(file, prefix);
    std::string problem;
    for (const bool feed_forward_second : {false, true}) {
      const auto paths = numbered_layers(*model->module, classes, feed_forward_second);
      const std::string here = misfit(layers, *model->module, paths, prefix);
      if (problem.empty()) problem = here;
      if (!here.empty()) continue;
      problem.clear();
      for (const auto& [index, layer] : layers) {
        auto& target = model->layers[paths[index]];
        target.lora_A = layer.down;
        target.lora_B = layer.up;
      }
      break;
    }
    require<FileError>(problem.empty(), "{}: {}", file.path(), problem);
  }
}

}  // namespace internal
}  // namespace diffusers
