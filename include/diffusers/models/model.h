#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/config_visitor.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace diffusers {

/// Options of `from_pretrained`.
struct ModelLoadOptions {
  std::string subfolder = {};         ///< subfolder that holds the model, such as "unet"
  std::string variant = {};           ///< "fp16" reads `diffusion_pytorch_model.fp16.safetensors`
  at::ScalarType dtype = at::kFloat;  ///< floating dtype that the weights are converted to
  at::Device device = at::kCPU;       ///< device that the weights are loaded to
};

/// Options of `save_pretrained`.
struct ModelSaveOptions {
  std::string variant = {};  ///< "fp16" writes `diffusion_pytorch_model.fp16.safetensors`
  /// Size in bytes above which weights are split into several files.
  int64_t max_shard_size = 10'000'000'000;
};

/// The result of `from_pretrained`.
struct LoadReport {
  std::string path;                               ///< weights file, or index of its shards
  std::size_t num_loaded = 0;                     ///< tensors that were loaded
  std::size_t num_converted = 0;                  ///< loaded tensors whose dtype changed
  std::vector<std::string> unexpected_keys = {};  ///< tensors that the model does not have
  /// Tensors with names of old versions: {name in the file, name in the model}.
  std::vector<std::pair<std::string, std::string>> renamed_keys = {};
  std::vector<std::string> unknown_config_keys = {};  ///< config keys that the class does not have
  /// @return the report as text, one fact per line
  std::string to_string() const;
};

namespace detail {

/// Names of the weights files of a class of models, and of the tensors in them.
struct WeightsFormat {
  std::string basename = "diffusion_pytorch_model";  ///< name of the weights file without its ending
  /// Returns the model's name of a tensor in a file, or an empty string for a tensor that the model does not
  /// need. Null: the names are the same.
  std::string (*name_in_model)(const std::string& name_in_file) = nullptr;
  /// Returns the name in the file of a tensor of the model. Null: the names are the same.
  std::string (*name_in_file)(const std::string& name_in_model) = nullptr;
};

/// A config with a function `visit_fields`.
template <class Config>
concept HasVisitFields = requires(Config& config, ConfigVisitor& visit) {
  visit_fields(config, visit);
};

/// A function that passes a visitor to `visit_fields` of a config.
using VisitConfig = std::function<void(ConfigVisitor&)>;

/// Reads the fields of a config from the text of a config.json, with Python's semantics.
void read_config(std::string_view json, std::string_view where, std::string_view class_name,
                 const VisitConfig& visit, std::string& source, LoadReport& report);
/// Writes the text of a config.json. `source` is the config that was read, or empty.
std::string write_config(const VisitConfig& visit, std::string_view source, std::string_view class_name);

std::filesystem::path model_folder(const std::filesystem::path& folder, const std::string& subfolder);
std::string read_model_config(const std::filesystem::path& folder);
void load_model_weights(torch::nn::Module& model, const std::filesystem::path& folder,
                        const ModelLoadOptions& options, LoadReport& report,
                        const WeightsFormat& format = {});
void save_model(const torch::nn::Module& model, const std::filesystem::path& folder,
                const std::string& config_json, const ModelSaveOptions& options,
                const WeightsFormat& format = {});
void copy_model_state(const torch::nn::Module& from, torch::nn::Module& to,
                      const std::optional<at::Device>& device);
int64_t count_parameters(const torch::nn::Module& model, bool only_trainable);
/// Returns the names of tensors in files of old versions and their names in the model.
std::map<std::string, std::string> renamed_tensors(const torch::nn::Module& model);

}  // namespace detail

/// Base of the models.
///
/// `Derived` has `static constexpr std::string_view kClassName`, a constructor from `ConfigType`, and builds
/// its layers in `reset()`. A function `visit_fields(ConfigType&, ConfigVisitor&)` in the namespace of
/// `ConfigType` lists the fields. `<diffusers/models/register_model.h>` has an example.
///
/// @tparam Derived the model's class
/// @tparam ConfigType an aggregate of its constructor's arguments
template <class Derived, class ConfigType>
class ModelImpl : public torch::nn::Cloneable<Derived> {
 public:
  using Config = ConfigType;  ///< the config struct

  /// Keeps the config. The constructor of `Derived` calls `reset()`.
  /// @param config the arguments of the model
  explicit ModelImpl(Config config)
      : torch::nn::Cloneable<Derived>(std::string(Derived::kClassName)), config_(std::move(config)) {}

  /// @return the config that the model was made with
  const Config& config() const { return config_; }
  /// @return the config as Python writes config.json, with the unknown keys that came from a file
  std::string config_json() const {
    if constexpr (requires { write_model_config(config_, config_source_); }) {
      return write_model_config(config_, config_source_);
    } else {
      static_assert(detail::HasVisitFields<Config>,
                    "declare visit_fields(Config&, diffusers::ConfigVisitor&) in the namespace of Config");
      Config copy = config_;
      return detail::write_config([&](ConfigVisitor& visit) { visit_fields(copy, visit); }, config_source_,
                                  Derived::kClassName);
    }
  }
  /// Returns the names of the weights files. A model whose files have other names than those of diffusers
  /// hides this function.
  /// @return names of the files and of the tensors in them
  static detail::WeightsFormat weights_format() { return {}; }
  /// @return the class name in config.json
  static std::string class_name() { return std::string(Derived::kClassName); }
  /// @return the report of `from_pretrained`; empty for a model that was not loaded
  const LoadReport& load_report() const { return load_report_; }
  /// Counts the elements of all parameters.
  /// @param only_trainable counts only parameters that require a gradient
  /// @return number of elements
  int64_t num_parameters(bool only_trainable = false) const {
    return detail::count_parameters(*this, only_trainable);
  }
  /// Writes config.json and the weights (diffusion_pytorch_model.safetensors, or shards of it).
  /// @param folder is created if it does not exist
  /// @param options variant and shard size
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder, const ModelSaveOptions& options = {}) const {
    const auto& derived = static_cast<const Derived&>(*this);
    detail::save_model(*this, folder, derived.config_json(), options, Derived::weights_format());
  }
  /// Copies the model with its own weights. Draws no random numbers if the layers are those of
  /// `<diffusers/models/layers.h>`.
  /// @param device device of the copy; the model's by default
  /// @return the copy, a `Derived`
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<at::Device>& device = std::nullopt) const override {
    std::shared_ptr<Derived> copy;
    {
      const layers::SkipInitGuard skip_init;
      copy = std::make_shared<Derived>(config_);
    }
    copy->config_source_ = config_source_;
    copy->load_report_ = load_report_;
    copy->copy_settings(static_cast<const Derived&>(*this));
    detail::copy_model_state(*this, *copy, device);
    return copy;
  }

 protected:
  /// Copies settings that are in neither config nor tensors. A model with such settings hides this function.
  void copy_settings(const Derived&) {}
  /// @return the config, for changes after construction such as `resize_token_embeddings`
  Config& mutable_config() { return config_; }
  /// @return the JSON of the config file that the model was made from; empty if there was none
  const std::string& config_source() const { return config_source_; }

 private:
  template <class, class>
  friend class ModelHolder;

  Config config_;
  std::string config_source_;
  LoadReport load_report_;
};

/// A handle of a model, like the holders of torch::nn, with the constructors of Python's classes. Copies
/// share the weights.
/// @tparam Impl the model's class, derived from `ModelImpl`
/// @tparam Config its config struct
template <class Impl, class Config>
class ModelHolder : public torch::nn::ModuleHolder<Impl> {
 public:
  /// Makes a model with the default config.
  ModelHolder() = default;
  // NOLINTBEGIN(google-explicit-constructor): as torch.nn's holders.
  /// Makes an empty holder.
  ModelHolder(std::nullptr_t) : torch::nn::ModuleHolder<Impl>(nullptr) {}
  /// Holds a model.
  /// @param model the model; null makes an empty holder
  ModelHolder(std::shared_ptr<Impl> model) : torch::nn::ModuleHolder<Impl>(std::move(model)) {}
  // NOLINTEND(google-explicit-constructor)
  /// Makes a model with new weights.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the key and the value that is not supported
  explicit ModelHolder(Config config) : ModelHolder(std::make_shared<Impl>(std::move(config))) {}

  /// Calls `forward`, as Python's `model(...)`: `unet(sample, timesteps)`.
  /// @param args the arguments of one of the model's `forward` functions
  /// @return the result of `forward`
  template <class... Args>
  requires requires(Impl& model, Args&&... args) { model.forward(std::forward<Args>(args)...); }
  decltype(auto) operator()(Args&&... args) const {
    return this->ptr()->forward(std::forward<Args>(args)...);
  }
  /// @name Calls with braced options
  /// They call `forward` with its optional arguments in braces: `unet(sample, timesteps, {.class_labels =
  /// y})`.
  /// @{

  /// Calls `forward` with one required argument and options.
  /// @param a first argument of `forward`
  /// @param options the optional arguments of `forward`
  /// @return the result of `forward`
  template <class A, class Model = Impl>
  decltype(auto) operator()(A&& a, const typename Model::ForwardOptions& options) const {
    return this->ptr()->forward(std::forward<A>(a), options);
  }
  /// Calls `forward` with two required arguments and options.
  /// @param a first argument of `forward`
  /// @param b second argument of `forward`
  /// @param options the optional arguments of `forward`
  /// @return the result of `forward`
  template <class A, class B, class Model = Impl>
  decltype(auto) operator()(A&& a, B&& b, const typename Model::ForwardOptions& options) const {
    return this->ptr()->forward(std::forward<A>(a), std::forward<B>(b), options);
  }
  /// Calls `forward` with three required arguments and options.
  /// @param a first argument of `forward`
  /// @param b second argument of `forward`
  /// @param c third argument of `forward`
  /// @param options the optional arguments of `forward`
  /// @return the result of `forward`
  template <class A, class B, class C, class Model = Impl>
  decltype(auto) operator()(A&& a, B&& b, C&& c, const typename Model::ForwardOptions& options) const {
    return this->ptr()->forward(std::forward<A>(a), std::forward<B>(b), std::forward<C>(c), options);
  }
  /// Calls `forward` with four required arguments and options.
  /// @param a first argument of `forward`
  /// @param b second argument of `forward`
  /// @param c third argument of `forward`
  /// @param d fourth argument of `forward`
  /// @param options the optional arguments of `forward`
  /// @return the result of `forward`
  template <class A, class B, class C, class D, class Model = Impl>
  decltype(auto) operator()(A&& a, B&& b, C&& c, D&& d, const typename Model::ForwardOptions& options) const {
    return this->ptr()->forward(std::forward<A>(a), std::forward<B>(b), std::forward<C>(c),
                                std::forward<D>(d), options);
  }
  /// @}

  /// Makes a model with new weights from the text of a config.json. Missing keys take their defaults. Unknown
  /// keys are reported once and are kept for `config_json` and `save_pretrained`.
  /// @param json the text
  /// @return the model
  /// @throws ConfigError naming the key and the value that is not supported
  /// @throws FileError if the text is not JSON
  static ModelHolder from_config(std::string_view json) { return make(json, "config"); }

  /// Loads a model from config.json and the weights of a folder. Draws no random numbers if the layers are
  /// those of `<diffusers/models/layers.h>`.
  /// @param folder a model folder, or a pipeline folder with `options.subfolder`
  /// @param options subfolder, variant, dtype and device
  /// @return the model, in eval mode
  /// @throws FileError if a file is missing or damaged, or naming the tensors that are missing or have
  ///   another shape
  /// @throws ConfigError as `from_config`
  static ModelHolder from_pretrained(const std::filesystem::path& folder,
                                     const ModelLoadOptions& options = {}) {
    const auto path = detail::model_folder(folder, options.subfolder);
    const auto json = detail::read_model_config(path);
    const layers::SkipInitGuard skip_init;
    ModelHolder model = make(json, (path / "config.json").string());
    detail::load_model_weights(*model, path, options, model->load_report_, Impl::weights_format());
    model->eval();
    return model;
  }

 private:
  static ModelHolder make(std::string_view json, const std::string& where) {
    Config config;
    std::string source;
    LoadReport report;
    if constexpr (requires { read_model_config(json, where, config, source, report); }) {
      read_model_config(json, where, config, source, report);
    } else {
      static_assert(detail::HasVisitFields<Config>,
                    "declare visit_fields(Config&, diffusers::ConfigVisitor&) in the namespace of Config");
      detail::read_config(
          json, where, Impl::kClassName, [&](ConfigVisitor& visit) { visit_fields(config, visit); }, source,
          report);
    }
    ModelHolder model(std::move(config));
    model->config_source_ = std::move(source);
    model->load_report_ = std::move(report);
    return model;
  }
};

}  // namespace diffusers
