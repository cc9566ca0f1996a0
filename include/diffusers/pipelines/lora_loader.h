#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <diffusers/models/lora_weights.h>

namespace diffusers {

/// The arguments of `LoraLoader::fuse_lora`, in Python's order.
struct FuseLoraOptions {
  /// Models to fuse, "unet", "text_encoder" or "text_encoder_2"; those without adapters are skipped. Empty:
  /// all.
  std::vector<std::string> components = {};
  double lora_scale = 1.0;                      ///< factor of the updates
  bool safe_fusing = false;                     ///< throws if a fused weight would not be finite
  std::vector<std::string> adapter_names = {};  ///< adapters to fuse; empty: the active ones
};

/// LoRA adapters of a pipeline's UNet and text encoders (diffusers `StableDiffusionLoraLoaderMixin`). The
/// functions of a single model are those of `PeftAdapterMixin`: `pipeline.unet()->add_adapter(...)`.
class LoraLoader {
 public:
  virtual ~LoraLoader() = default;

  /// Writes adapters to `pytorch_lora_weights.safetensors`.
  /// @param save_directory is created if it does not exist
  /// @param options models, adapter and file name
  /// @throws ConfigError if no model is given or a model does not have the adapter
  /// @throws FileError if the file cannot be written
  static void save_lora_weights(const std::filesystem::path& save_directory,
                                const SaveLoraWeightsOptions& options) {
    diffusers::save_lora_weights(save_directory, options);
  }
  /// Adds the adapter of a file to the UNet and the text encoders, and makes it the active one.
  /// @param path folder or file; the formats are those of `diffusers::load_lora_weights`
  /// @param options names of the adapter and of the file
  /// @return the name of the adapter
  /// @throws FileError if the file does not fit the models
  /// @throws ConfigError if a setting is not supported, or the name is in use
  std::string load_lora_weights(const std::filesystem::path& path,
                                const LoadLoraWeightsOptions& options = {});
  /// Removes all adapters. Fused adapters stay in the weights.
  void unload_lora_weights();
  /// Makes adapters active, all others inactive.
  /// @param adapter_names names of adapters; a model is left without an active adapter if it has none of them
  /// @param adapter_weights factor of each adapter; empty: 1 for all
  /// @throws ConfigError if no model has an adapter of a name, the numbers of names and weights differ, or
  ///   adapters are fused
  void set_adapters(const std::vector<std::string>& adapter_names,
                    const std::vector<double>& adapter_weights = {});
  /// Adds the updates of adapters to the weights of the models.
  /// @param options models, scale and adapters
  /// @throws ConfigError if nothing can be fused, a name is unknown, or adapters are disabled or already
  /// fused
  /// @throws TensorError if safe_fusing finds NaN or Inf
  void fuse_lora(const FuseLoraOptions& options = {});
  /// Restores the weights of before `fuse_lora`, bit for bit.
  /// @throws ConfigError if no adapter is fused
  void unfuse_lora();
  /// Disables the adapters of all models.
  void disable_lora();
  /// Enables the active adapters again.
  void enable_lora();
  /// Deletes adapters from all models.
  /// @param adapter_names names of the adapters
  /// @throws ConfigError if no model has an adapter of a name, or adapters are fused
  void delete_adapters(const std::vector<std::string>& adapter_names);
  /// @return names of the active adapters of all models
  std::vector<std::string> get_active_adapters();
  /// @return for each model with adapters, the names of all of them
  std::map<std::string, std::vector<std::string>> get_list_adapters();

 protected:
  LoraLoader() = default;
  LoraLoader(const LoraLoader&) = default;                 ///< copies nothing
  LoraLoader(LoraLoader&&) noexcept = default;             ///< moves nothing
  LoraLoader& operator=(const LoraLoader&) = default;      ///< copies nothing
  LoraLoader& operator=(LoraLoader&&) noexcept = default;  ///< moves nothing
  /// @return the pipeline's models that can have adapters
  virtual LoraModules lora_modules() = 0;
};

}  // namespace diffusers
