// The registry of model classes.

#include <map>
#include <mutex>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/register_model.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>

#include "core/json.h"
#include "core/model_class.h"
#include "core/require.h"

namespace diffusers {
namespace {

class ModelRegistry {
 public:
  static ModelRegistry& get() {
    static ModelRegistry registry;
    return registry;
  }

  void add(const detail::ModelClass& model) {
    const std::lock_guard lock(mutex_);
    const auto [entry, is_new] = classes_.try_emplace(std::string(model.name), model);
    require<ConfigError>(is_new || *entry->second.type == *model.type,
                         "register_model: there is another class with the name \"{}\"", model.name);
    if (is_new) add_model_class(model.name);
  }

  std::vector<std::string> names() const {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> names;
    for (const auto& entry : classes_) names.push_back(entry.first);
    return names;
  }

  /// @param where path of the config, for error messages
  detail::ModelClass find(std::string_view json, std::string_view where) const {
    const Json config = parse_json(json, where);
    require<ConfigError>(config.is_object(), "{}: expected a JSON object", where);
    const std::string name = config_class(config, where, "UNet2DModel");
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = classes_.find(name); found != classes_.end()) return found->second;
    }
    fail<ConfigError>(
        "{}: the class is \"{}\", expected one of: {}; register_model<Model>() of "
        "<diffusers/models/register_model.h> adds a class",
        where, name, fmt::join(names(), ", "));
  }

 private:
  ModelRegistry() {
    for (const auto& model : {detail::model_class<AutoencoderKL>(), detail::model_class<AutoencoderTiny>(),
                              detail::model_class<ControlNetModel>(), detail::model_class<T2IAdapter>(),
                              detail::model_class<UNet2DConditionModel>(), detail::model_class<UNet2DModel>(),
                              detail::model_class<VQModel>()})
      classes_.emplace(model.name, model);
  }

  mutable std::mutex mutex_;
  std::map<std::string, detail::ModelClass, std::less<>> classes_;
};

}  // namespace

namespace detail {

void register_model(const ModelClass& model) { ModelRegistry::get().add(model); }

}  // namespace detail

std::vector<std::string> registered_models() { return ModelRegistry::get().names(); }

std::shared_ptr<torch::nn::Module> AutoModel::from_config(std::string_view json) {
  return ModelRegistry::get().find(json, "config").from_config(json);
}

std::shared_ptr<torch::nn::Module> AutoModel::from_pretrained(const std::filesystem::path& folder,
                                                              const ModelLoadOptions& options) {
  const auto path = detail::model_folder(folder, options.subfolder);
  const auto json = detail::read_model_config(path);
  return ModelRegistry::get().find(json, (path / "config.json").string()).from_pretrained(folder, options);
}

}  // namespace diffusers
