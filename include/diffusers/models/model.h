#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

namespace diffusers {

/// Options of `from_pretrained`.
struct ModelLoadOptions {
  std::string subfolder = {};         ///< of the folder, e.g. "unet"
  std::string variant = {};           ///< "fp16" reads `diffusion_pytorch_model.fp16.safetensors`
  at::ScalarType dtype = at::kFloat;  ///< what the floating tensors become, whatever the file holds
  at::Device device = at::kCPU;
};

/// Options of `save_pretrained`.
struct ModelSaveOptions {
  std::string variant = {};
  int64_t max_shard_size = 10'000'000'000;  ///< in bytes; larger models are split into several files
};

/// What `from_pretrained` did.
struct LoadReport {
  std::string path;                               ///< the weights file, or the index of its shards
  std::size_t num_loaded = 0;                     ///< tensors that went into the model
  std::size_t num_converted = 0;                  ///< of these, how many came in another dtype
  std::vector<std::string> unexpected_keys = {};  ///< tensors of the file that the model has no place for
  std::vector<std::pair<std::string, std::string>> renamed_keys =
      {};                                             ///< old name in the file, name in the model
  std::vector<std::string> unknown_config_keys = {};  ///< keys of config.json that the class does not know
  /// All of it as text, one fact a line.
  std::string to_string() const;
};

namespace detail {
/// How the files of a kind of models are named, and their tensors.
struct WeightsFormat {
  std::string basename = "diffusion_pytorch_model";
  /// The model's name of a tensor, from the file's; empty for one that old files have and no model needs.
  /// None: the names are the same.
  std::string (*name_in_model)(const std::string& name_in_file) = nullptr;
  /// The reverse, for saving.
  std::string (*name_in_file)(const std::string& name_in_model) = nullptr;
};

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
/// Names that tensors have in files of old versions -> their names in the model.
std::map<std::string, std::string> renamed_tensors(const torch::nn::Module& model);
}  // namespace detail

/// Base of the models. `Derived` has `static constexpr std::string_view kClassName`, a constructor from
/// `Config`, and builds everything in `reset()`; next to `Config` stand `void
/// read_model_config(std::string_view json, std::string_view where, Config&, std::string& source,
/// LoadReport&)` and `std::string write_model_config(const Config&, std::string_view source)`, where `source`
/// keeps what a file had.
template <class Derived, class ConfigType>
class ModelImpl : public torch::nn::Cloneable<Derived> {
 public:
  using Config = ConfigType;

  explicit ModelImpl(Config config)
      : torch::nn::Cloneable<Derived>(std::string(Derived::kClassName)), config_(std::move(config)) {}

  /// The configuration that the model was made with.
  const Config& config() const { return config_; }
  /// The configuration as Python writes config.json, with the unknown keys that came from a file.
  std::string config_json() const { return write_model_config(config_, config_source_); }
  /// How the weights lie in files; hidden by the models of other libraries than diffusers.
  static detail::WeightsFormat weights_format() { return {}; }
  /// Python's class name.
  static std::string class_name() { return std::string(Derived::kClassName); }
  /// What from_pretrained did; empty for a model that was not loaded.
  const LoadReport& load_report() const { return load_report_; }
  /// The number of elements of all parameters.
  int64_t num_parameters(bool only_trainable = false) const {
    return detail::count_parameters(*this, only_trainable);
  }
  /// Writes config.json and the weights (diffusion_pytorch_model.safetensors, or shards of it) into a folder,
  /// which is made if need be.
  /// @throws FileError
  void save_pretrained(const std::filesystem::path& folder, const ModelSaveOptions& options = {}) const {
    const auto& derived = static_cast<const Derived&>(*this);
    detail::save_model(*this, folder, derived.config_json(), options, Derived::weights_format());
  }
  /// A copy of its own, optionally on another device. Draws no random numbers.
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
  /// Takes over what is neither config nor tensor; hidden by models that have such settings.
  void copy_settings(const Derived&) {}
  /// For models that can grow.
  Config& mutable_config() { return config_; }
  /// The config file that the model was made from, as JSON; empty if there was none.
  const std::string& config_source() const { return config_source_; }

 private:
  template <class, class>
  friend class ModelHolder;

  Config config_;
  std::string config_source_;
  LoadReport load_report_;
};

/// Shared ownership of a model, as torch.nn's holders, with the constructors of Python's classes.
template <class Impl, class Config>
class ModelHolder : public torch::nn::ModuleHolder<Impl> {
 public:
  ModelHolder() = default;
  // NOLINTBEGIN(google-explicit-constructor): as torch.nn's holders.
  /// An empty holder, to be assigned to later.
  ModelHolder(std::nullptr_t) : torch::nn::ModuleHolder<Impl>(nullptr) {}
  ModelHolder(std::shared_ptr<Impl> model) : torch::nn::ModuleHolder<Impl>(std::move(model)) {}
  // NOLINTEND(google-explicit-constructor)
  /// @throws ConfigError naming the key and the value that cannot work
  explicit ModelHolder(Config config) : ModelHolder(std::make_shared<Impl>(std::move(config))) {}

  /// Makes a model from the JSON text of a config.json. Missing keys take their defaults, unknown ones warn
  /// and are kept for config_json() and save_pretrained().
  /// @throws ConfigError naming the key and the value, FileError if the text is no JSON
  static ModelHolder from_config(std::string_view json) { return make(json, "config"); }

  /// Loads config.json and the weights of a folder; the model comes in eval mode. Draws no random numbers.
  /// @throws FileError if a file is missing or torn, or if tensors are missing or of another shape, naming
  /// them;
  ///   ConfigError as from_config
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
    read_model_config(json, where, config, source, report);
    ModelHolder model(std::move(config));
    model->config_source_ = std::move(source);
    model->load_report_ = std::move(report);
    return model;
  }
};

}  // namespace diffusers
