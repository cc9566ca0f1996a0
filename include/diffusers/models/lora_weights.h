#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include <diffusers/models/fwd.h>

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace diffusers {

/// A model whose adapters are saved or loaded: a UNet2DConditionModel, a CLIPTextModel or a
/// CLIPTextModelWithProjection.
class LoraModule {
 public:
  /// Names no model.
  LoraModule() = default;
  /// Names a model.
  /// @param model holder of the model; empty names no model
  template <class Impl, class Config>
  LoraModule(const ModelHolder<Impl, Config>& model) {  // NOLINT(google-explicit-constructor): `.unet = unet`
    if (!model.is_empty()) module_ = model.ptr();
  }
  /// @return the model; null without one
  const std::shared_ptr<torch::nn::Module>& module() const { return module_; }

 private:
  std::shared_ptr<torch::nn::Module> module_;
};

/// The models of a pipeline that can have adapters.
struct LoraModules {
  LoraModule unet = {};            ///< tensors with the prefix "unet."
  LoraModule text_encoder = {};    ///< tensors with the prefix "text_encoder."
  LoraModule text_encoder_2 = {};  ///< tensors with the prefix "text_encoder_2."; Stable Diffusion XL
};

/// The arguments of `save_lora_weights`.
struct SaveLoraWeightsOptions {
  LoraModule unet = {};            ///< UNet with an adapter; none by default
  LoraModule text_encoder = {};    ///< text encoder with an adapter; none by default
  LoraModule text_encoder_2 = {};  ///< second text encoder of Stable Diffusion XL; none by default
  /// Adapter to save. Empty: "default", or the adapter of a model that has only one.
  std::string adapter_name = {};
  std::string weight_name = "pytorch_lora_weights.safetensors";  ///< name of the file
};

/// The arguments of `load_lora_weights`.
struct LoadLoraWeightsOptions {
  /// Name that the adapter gets. Empty: "default_0", "default_1", ... as in Python.
  std::string adapter_name = {};
  /// Name of the file. Empty: pytorch_lora_weights.safetensors, or the only safetensors file of the folder.
  std::string weight_name = {};
};

/// Writes adapters to one file, with PEFT's names and `lora_adapter_metadata`, as diffusers'
/// `save_lora_weights` does.
/// @param folder is created if it does not exist
/// @param options models, adapter and file name
/// @throws ConfigError if no model is given or a model does not have the adapter
/// @throws FileError if the file cannot be written
void save_lora_weights(const std::filesystem::path& folder, const SaveLoraWeightsOptions& options);

/// Adds the adapter of a file to models and makes it the active one. Reads the files of diffusers' and PEFT's
/// versions, of the attention processors before PEFT, and of kohya-ss (`lora_unet_...`, `lora_te_...`), with
/// the layer names of diffusers and of Stable Diffusion XL's original UNet. Rank and alpha come from
/// `lora_adapter_metadata`, or from the tensors and the `.alpha` keys; without both alpha is the rank. If an
/// error is thrown, no model has changed. Draws no random numbers.
/// @param path folder or file
/// @param modules the models; those that the file does not mention stay unchanged
/// @param options names of the adapter and of the file
/// @return the name of the adapter
/// @throws FileError naming the tensors that belong to no layer or have a wrong shape, and the formats that
///   are not supported (LoHa, LoKr, DoRA of LyCORIS)
/// @throws ConfigError if the metadata has a setting that is not supported, or the name is in use
std::string load_lora_weights(const std::filesystem::path& path, const LoraModules& modules,
                              const LoadLoraWeightsOptions& options = {});

}  // namespace diffusers
