#include "adapter_report.h"

#include <algorithm>
#include <array>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>
#include <utility>

#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>

#include <ATen/ATen.h>

#include "concat.h"
#include "json_config.h"

using namespace diffusers;

namespace {

constexpr const char* kPeftConfig = "adapter_config.json";

/// Parts of names that only other kinds of adapters have.
constexpr std::array<std::pair<std::string_view, const char*>, 15> kOtherKinds{
    {{".hada_", "LoHa"},
     {".lokr_", "LoKr"},
     {".dora_scale", "DoRA of LyCORIS"},
     {".lora_mid.", "LoCon with a CP decomposition"},
     {".oft_", "OFT"},
     {".boft_", "BOFT"},
     {".vera_", "VeRA"},
     {".on_input", "(IA)^3"},
     {".ia3_", "(IA)^3"},
     {".hra_", "HRA"},
     {".fourierft_", "FourierFT"},
     {".a1.weight", "GLoRA"},
     {".w_norm", "norms of LyCORIS"},
     {".diff", "full weights of LyCORIS"},
     {".diff_b", "full weights of LyCORIS"}}};

/// True if a name belongs to such a kind.
bool has_part(const std::string& name, std::string_view part) {
  return part.starts_with(".diff") ? name.ends_with(part) : name.find(part) != std::string::npos;
}

/// Endings of the tensors that have the rank as their first dimension.
constexpr std::array<std::string_view, 6> kDownEndings{{".lora_linear_layer.down.weight", "_lora.down.weight",
                                                        ".lora.down.weight", ".lora_down.weight",
                                                        ".lora_A.weight", ":down"}};

/// The adapter of a component.
struct ComponentAdapter {
  std::map<int64_t, int64_t> ranks;        // layers by rank
  std::map<double, int64_t> alphas;        // layers by alpha
  std::map<std::string, int64_t> modules;  // layers by the end of their name
  bool has_dora = false;
};

struct NamedLayer {
  std::string component, layer, layout;
};

bool take_start(std::string& text, std::string_view start) {
  if (!text.starts_with(start)) return false;
  text.erase(0, start.size());
  return true;
}

/// Finds component and layout of the name of a layer.
NamedLayer layer_of(std::string name) {
  for (const auto& [start, component] :
       {std::pair("lora_unet_", "unet"), std::pair("lora_te_", "text_encoder"),
        std::pair("lora_te1_", "text_encoder"), std::pair("lora_te2_", "text_encoder_2")})
    if (take_start(name, start)) return {component, name, "kohya-ss"};
  if (const auto colon = name.find(':'); colon != std::string::npos)
    return {name.substr(0, colon), name.substr(colon + 1), "cloneofsimo"};
  const std::string layout = name.starts_with("base_model.model.") ? "PEFT" : "diffusers";
  take_start(name, "base_model.model.");
  for (const char* component : {"unet", "text_encoder_2", "text_encoder"})
    if (take_start(name, std::string(component) + "."))
      return {component, name,
              name.find(".processor") == std::string::npos ? layout : "attention processors"};
  return {"model", name, layout};
}

/// The end of a layer's name, such as "to_out.0" of "mid_block.attentions.0...attn1.to_out.0".
std::string module_of(const std::string& layer) {
  static const std::array<std::string_view, 16> kFlat{
      {"to_q", "to_k", "to_v", "to_out_0", "proj_in", "proj_out", "ff_net_0_proj", "ff_net_2", "conv1",
       "conv2", "time_emb_proj", "conv_shortcut", "q_proj", "k_proj", "v_proj", "out_proj"}};
  if (layer.find('.') == std::string::npos) {
    for (const auto end : kFlat)
      if (layer.ends_with(end)) return std::string(end);
    return layer.substr(layer.rfind('_') + 1);
  }
  auto begin = layer.rfind('.');
  const bool is_number = begin + 1 < layer.size() && layer[begin + 1] >= '0' && layer[begin + 1] <= '9';
  if (is_number && begin > 0) begin = layer.rfind('.', begin - 1);
  return begin == std::string::npos ? layer : layer.substr(begin + 1);
}

Json object_of(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

/// Takes alpha of the metadata for components whose layers have none.
void read_configs(const SafetensorsFile& file, std::map<std::string, ComponentAdapter>& components) {
  Json config = Json::object();
  if (const auto found = file.metadata().find("lora_adapter_metadata"); found != file.metadata().end())
    config = object_of(found->second);
  const std::string folder = parent_folder(file.path());
  const bool is_peft =
      base_name(file.path()) == "adapter_model.safetensors" && file_exists(join_path(folder, kPeftConfig));
  const Json peft = is_peft ? object_of(read_model_file(folder, kPeftConfig)) : Json::object();
  for (auto& [name, adapter] : components) {
    int64_t layers = 0;
    for (const auto& item : adapter.ranks) layers += item.second;
    const Json& source = is_peft ? peft : config;
    const auto number = source.find(is_peft ? "lora_alpha" : name + ".lora_alpha");
    if (adapter.alphas.empty() && number != source.end() && number->is_number())
      adapter.alphas[number->get<double>()] = layers;
  }
}

template <class Key>
std::string counted(const std::map<Key, int64_t>& counts) {
  std::ostringstream text;
  const char* separator = "";
  for (const auto& [value, count] : counts) {
    text << separator << value;
    if (counts.size() > 1) text << " (" << count << ")";
    separator = ", ";
  }
  return text.str();
}

std::optional<AdapterReport> describe_lora(const SafetensorsFile& file) {
  std::map<std::string, ComponentAdapter> components;
  std::string layout;
  AdapterReport report;
  std::map<std::string, int64_t> others;
  for (const auto& name : file.names()) {
    bool is_other = false;
    for (const auto& [part, kind] : kOtherKinds)
      if (has_part(name, part)) {
        ++others[kind];
        is_other = true;
        break;
      }
    if (is_other) continue;
    const auto end = std::find_if(kDownEndings.begin(), kDownEndings.end(),
                                  [&](std::string_view ending) { return name.ends_with(ending); });
    if (end != kDownEndings.end()) {
      const auto& shape = file.info(name).shape;
      if (shape.size() < 2) continue;
      const bool is_processor = end->starts_with('_');
      const NamedLayer layer = layer_of(name.substr(0, name.size() - end->size()));
      layout = is_processor ? "attention processors" : layer.layout;
      auto& adapter = components[layer.component];
      ++adapter.ranks[shape.front()];
      if (layer.layout != "cloneofsimo") ++adapter.modules[module_of(layer.layer)];
    } else if (name.ends_with(".alpha") && file.info(name).shape.size() <= 1) {
      const NamedLayer layer = layer_of(name.substr(0, name.size() - 6));
      ++components[layer.component].alphas[file.get(name).to(at::kDouble).reshape({-1})[0].item<double>()];
    } else if (name.find(".lora_magnitude_vector") != std::string::npos) {
      components[layer_of(name.substr(0, name.find(".lora_magnitude_vector"))).component].has_dora = true;
    }
  }
  if (components.empty() && others.empty()) return std::nullopt;
  report.title = others.empty() ? "LoRA adapter, layout of " + layout : "adapter of another kind";
  for (const auto& [kind, count] : others)
    report.errors.push_back(concat(count, " tensors of ", kind, ", which is not supported"));
  read_configs(file, components);
  for (const auto& [name, adapter] : components) {
    int64_t layers = 0;
    for (const auto& item : adapter.ranks) layers += item.second;
    report.lines.push_back(concat(name, ": ", layers, " layers, rank ", counted(adapter.ranks), ", alpha ",
                                  adapter.alphas.empty() ? "none (scale 1)" : counted(adapter.alphas),
                                  adapter.has_dora ? ", DoRA" : "",
                                  adapter.modules.empty() ? "" : ", modules " + counted(adapter.modules)));
  }
  return report;
}

/// Tells a token of diffusers from the name of other weights: it has brackets, or no dot and the width of a
/// text encoder.
bool is_token(const std::string& name, int64_t width) {
  if (name.starts_with('<') && name.ends_with('>')) return true;
  return name.find('.') == std::string::npos && (width == 768 || width == 1024 || width == 1280);
}

std::optional<AdapterReport> describe_embedding(const SafetensorsFile& file) {
  const auto& names = file.names();
  const auto has = [&](const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  constexpr std::size_t kMostTokens = 64;
  if (names.empty() || names.size() > kMostTokens) return std::nullopt;
  const bool is_a1111 = has("emb_params");
  const bool is_xl = has("clip_l") && has("clip_g");
  for (const auto& name : names) {
    const auto& info = file.info(name);
    const bool is_embedding =
        (info.shape.size() == 1 || info.shape.size() == 2) && at::isFloatingType(info.dtype);
    if (!is_embedding || (!is_a1111 && !is_xl && !is_token(name, info.shape.back()))) return std::nullopt;
  }
  AdapterReport report{.title = is_xl      ? "textual inversion for Stable Diffusion XL (clip_l, clip_g)"
                                : is_a1111 ? "textual inversion, layout of AUTOMATIC1111 (emb_params)"
                                           : "textual inversion, layout of diffusers"};
  for (const auto& name : names) {
    const auto& shape = file.info(name).shape;
    const int64_t vectors = shape.size() == 2 ? shape[0] : 1;
    report.lines.push_back(concat(is_xl || is_a1111 ? "" : "token ", name, ": ", vectors,
                                  vectors == 1 ? " vector" : " vectors", " of ", shape.back(), " numbers"));
  }
  return report;
}

}  // namespace

std::optional<AdapterReport> describe_adapter(const SafetensorsFile& file) {
  if (auto report = describe_lora(file)) return report;
  return describe_embedding(file);
}

std::string adapter_file_in(const std::string& folder) {
  for (const char* name :
       {"pytorch_lora_weights.safetensors", "adapter_model.safetensors", "learned_embeds.safetensors"})
    if (file_exists(join_path(folder, name))) return name;
  return "";
}
