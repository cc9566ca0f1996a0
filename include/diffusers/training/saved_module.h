#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/state_dict.h>

#include <torch/nn/module.h>

namespace diffusers {

/// Writes the files of a module into a folder, as `SavedModule::save` would have written them when the
/// snapshot was taken. Another thread may call it while the module is trained.
using SnapshotWriter = std::function<void(const std::filesystem::path& folder)>;

/// A module with functions that save and load it. The Trainer saves and resumes modules through this class. A
/// task calls the model itself.
class SavedModule {
 public:
  virtual ~SavedModule() = default;

  /// @return the module
  virtual torch::nn::Module& module() = 0;
  /// Returns the text of `config.json`. A training is resumed only if it is unchanged.
  /// @return JSON; empty: the module has no config
  virtual std::string config_json() const { return {}; }
  /// Writes the module's files.
  /// @param folder existing folder
  /// @throws FileError if a file cannot be written
  virtual void save(const std::filesystem::path& folder) = 0;
  /// Loads weights that `save` wrote, in place.
  /// @param folder folder of the module's files
  /// @throws FileError naming file and tensor, if a tensor is missing, non-finite, or of another shape or
  /// dtype
  virtual void load(const std::filesystem::path& folder) = 0;
  /// Copies the weights to the CPU and returns the function that writes them.
  /// @return the function; empty if the module does not support it. The Trainer then calls `save` and waits
  virtual SnapshotWriter snapshot() { return {}; }
  /// Enables gradient checkpointing: the module recomputes activations in the backward pass.
  /// @throws ConfigError if the module does not support it
  virtual void enable_gradient_checkpointing();

 protected:
  // Copying and assigning through the base would slice.
  SavedModule() = default;
  SavedModule(const SavedModule&) = default;
  SavedModule(SavedModule&&) noexcept = default;
  SavedModule& operator=(const SavedModule&) = default;
  SavedModule& operator=(SavedModule&&) noexcept = default;
};

/// A module and the name of its folder in `output_dir`.
struct NamedModule {
  std::string name;                     ///< name of the folder, such as "unet"
  std::shared_ptr<SavedModule> module;  ///< the module, not null
  /// False excludes the module from `use_ema` and post-hoc averages, such as the discriminator of a GAN.
  bool is_averaged = true;
};

namespace detail {

/// The file layout of a module: one weights file, or shards, beside `config.json`.
struct SavedLayout {
  std::string basename = "diffusion_pytorch_model";  ///< of the weights file
  /// Returns the name of a tensor in the file. Null: the name in the module.
  std::string (*name_in_file)(const std::string& name_in_module) = nullptr;
};

/// Writes parameters, buffers and a `config.json` with the module's name.
void save_module(const torch::nn::Module& module, const std::filesystem::path& folder);
/// Copies weights into the module. Buffers that the file lacks keep their values.
void load_module(torch::nn::Module& module, const std::filesystem::path& folder, const SavedLayout& layout);
/// @param config_json text of `config.json`; empty: a config with the module's name
SnapshotWriter module_snapshot(const torch::nn::Module& module, std::string config_json, SavedLayout layout);

template <class Holder>
bool is_empty_holder(const Holder& holder) {
  if constexpr (requires { holder.is_empty(); }) {
    return holder.is_empty();
  } else if constexpr (requires { holder == nullptr; }) {
    return holder == nullptr;
  } else {
    return false;
  }
}

}  // namespace detail

/// The SavedModule of a holder or pointer. It uses the module's `save_pretrained(folder)`, `config_json()`,
/// `weights_format()` and `enable_gradient_checkpointing()` if they exist. A module without `save_pretrained`
/// is saved as `config.json` and `diffusion_pytorch_model.safetensors`.
template <ModuleHandle Holder>
class SavedHolder : public SavedModule {
 public:
  /// Creates the SavedModule of a holder.
  /// @param holder holder or pointer; the module is shared, not copied
  /// @throws ConfigError for an empty holder or a null pointer
  explicit SavedHolder(Holder holder) : holder_(std::move(holder)) {
    if (detail::is_empty_holder(holder_))
      throw ConfigError("the model to train is an empty holder (nullptr); expected a constructed model");
  }

  /// @return the module
  torch::nn::Module& module() override { return *holder_.operator->(); }

  std::string config_json() const override {
    // A copy of the holder, because torch's holders give non-const access only from non-const objects.
    if constexpr (requires(Holder holder) { std::string(holder->config_json()); }) {
      Holder holder = holder_;
      return std::string(holder->config_json());
    } else {
      return {};
    }
  }

  void save(const std::filesystem::path& folder) override {
    if constexpr (kSavesItself) {
      holder_->save_pretrained(folder);
    } else {
      detail::save_module(module(), folder);
    }
  }

  void load(const std::filesystem::path& folder) override { detail::load_module(module(), folder, layout()); }

  SnapshotWriter snapshot() override {
    if constexpr (kHasLayout) {
      return detail::module_snapshot(module(), config_json(), layout());
    } else if constexpr (kSavesItself) {
      return {};  // its files are not known
    } else {
      return detail::module_snapshot(module(), {}, {});
    }
  }

  void enable_gradient_checkpointing() override {
    if constexpr (requires(Holder holder) { holder->enable_gradient_checkpointing(); }) {
      holder_->enable_gradient_checkpointing();
    } else {
      SavedModule::enable_gradient_checkpointing();
    }
  }

 private:
  static constexpr bool kSavesItself = requires(Holder holder, std::filesystem::path folder) {
    holder->save_pretrained(folder);
  };
  static constexpr bool kHasLayout = requires(Holder holder) { holder->weights_format().name_in_file; };

  detail::SavedLayout layout() {
    if constexpr (kHasLayout) {
      const auto format = holder_->weights_format();
      return {.basename = format.basename, .name_in_file = format.name_in_file};
    } else {
      return {};
    }
  }

  Holder holder_;
};

/// Creates the SavedModule of a holder or a pointer, such as `make_saved_module(unet)`.
/// @param holder holder or pointer; the module is shared, not copied
/// @return the SavedModule
/// @throws ConfigError for an empty holder or a null pointer
template <ModuleHandle Holder>
std::shared_ptr<SavedModule> make_saved_module(Holder holder) {
  return std::make_shared<SavedHolder<Holder>>(std::move(holder));
}

}  // namespace diffusers
