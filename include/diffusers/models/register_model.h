#pragma once

/// @file
/// Registration of model classes that a program defines. A class derived from `ModelImpl`, with a config
/// struct and a function `visit_fields`, has the functions of the library's models: `config.json`,
/// `save_pretrained`, `from_pretrained`, `from_config` and `clone`. `Trainer` can train it.
/// @code
/// struct TinyConfig {
///   int64_t in_channels = 3;
/// };
/// inline void visit_fields(TinyConfig& config, ConfigVisitor& visit) {
///   visit("in_channels", config.in_channels);
/// }
/// class TinyImpl : public ModelImpl<TinyImpl, TinyConfig> {
///  public:
///   static constexpr std::string_view kClassName = "Tiny";
///   explicit TinyImpl(TinyConfig config = {}) : ModelImpl(config) { reset(); }
///   void reset() override { proj = register_module("proj", layers::Linear(config().in_channels, 1)); }
///   Tensor forward(const Tensor& x, const Tensor& timesteps) const { return proj->forward(x); }
///   layers::Linear proj{nullptr};
/// };
/// using Tiny = ModelHolder<TinyImpl, TinyConfig>;
/// @endcode
/// `register_model<Tiny>()` makes `AutoModel` find the class by the `_class_name` of a config.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>
#include <vector>

#include <diffusers/models/model.h>

#include <torch/nn/module.h>

namespace diffusers {

namespace detail {

/// An entry of the registry of model classes.
struct ModelClass {
  std::string_view name;
  const std::type_info* type;
  std::shared_ptr<torch::nn::Module> (*from_config)(std::string_view json);
  std::shared_ptr<torch::nn::Module> (*from_pretrained)(const std::filesystem::path& folder,
                                                        const ModelLoadOptions& options);
};

template <class Model>
ModelClass model_class() {
  using Impl = typename Model::ContainedType;
  return {Impl::kClassName, &typeid(Impl),
          [](std::string_view json) -> std::shared_ptr<torch::nn::Module> {
            return Model::from_config(json).ptr();
          },
          [](const std::filesystem::path& folder,
             const ModelLoadOptions& options) -> std::shared_ptr<torch::nn::Module> {
            return Model::from_pretrained(folder, options).ptr();
          }};
}

void register_model(const ModelClass& model);

}  // namespace detail

/// Registers a class of models under its class name. The library's own classes are registered already.
/// Registering a class again has no effect. Thread-safe.
/// @tparam Model a `ModelHolder`, such as `Tiny` above
/// @throws ConfigError if another class is registered under the same name
template <class Model>
void register_model() {
  detail::register_model(detail::model_class<Model>());
}

/// Lists the classes that `AutoModel` finds. Thread-safe.
/// @return class names in alphabetical order
std::vector<std::string> registered_models();

/// Makes models whose class is named in the config (diffusers `AutoModel`).
class AutoModel {
 public:
  /// Makes a model with new weights from the text of a config.json.
  /// @param json the text; `_class_name` names a registered class
  /// @return the model; `module->as<TinyImpl>()` gives its own type
  /// @throws ConfigError if the class is not registered, listing the registered classes; or as
  ///   `ModelHolder::from_config`
  static std::shared_ptr<torch::nn::Module> from_config(std::string_view json);
  /// Loads a model from a folder.
  /// @param folder a model folder, or a pipeline folder with `options.subfolder`
  /// @param options subfolder, variant, dtype and device
  /// @return the model, in eval mode
  /// @throws ConfigError if the class is not registered, listing the registered classes
  /// @throws FileError as `ModelHolder::from_pretrained`
  static std::shared_ptr<torch::nn::Module> from_pretrained(const std::filesystem::path& folder,
                                                            const ModelLoadOptions& options = {});
};

}  // namespace diffusers
