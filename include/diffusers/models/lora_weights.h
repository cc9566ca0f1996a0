#pragma once

#include <array>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
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

/// Layout of a LoRA file.
enum class LoraFormat {
  /// One file with PEFT's names behind the name of the component, and the configs in the metadata, as
  /// diffusers' `save_lora_weights` writes it.
  kDiffusers,
  /// A folder for each component with adapter_model.safetensors and adapter_config.json, as PEFT's
  /// `save_pretrained` writes it. The names in the file do not tell the component; the name of the folder
  /// does
  /// (`unet`, `text_encoder`, `text_encoder_2`), or else the first model that has the layers.
  kPeft,
  /// One file with the names of kohya-ss (`lora_unet_...`, `lora_te_...`; for Stable Diffusion XL
  /// `lora_te1_...`, `lora_te2_...`) and the layer names of diffusers, as its `convert_state_dict_to_kohya`
  /// writes them. Each layer has its `.alpha`; Python's function writes the rank there.
  kKohya
};

/// The strings of the enumerators of LoraFormat.
template <>
struct EnumNames<LoraFormat> {
  /// Name of the option in error messages.
  static constexpr std::string_view kKey = "format";
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<LoraFormat, std::string_view>, 3> kTable{
      {{LoraFormat::kDiffusers, "diffusers"}, {LoraFormat::kPeft, "peft"}, {LoraFormat::kKohya, "kohya"}}};
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
  /// Name of the file. Not used by the format "peft", whose names are fixed.
  std::string weight_name = "pytorch_lora_weights.safetensors";
  EnumChoice<LoraFormat> format = LoraFormat::kDiffusers;  ///< layout of the file
};

/// The arguments of `load_lora_weights`.
struct LoadLoraWeightsOptions {
  /// Name that the adapter gets. Empty: "default_0", "default_1", ... as in Python.
  std::string adapter_name = {};
  /// Name of the file. Empty: pytorch_lora_weights.safetensors, or the only safetensors file of the folder.
  std::string weight_name = {};
};

/// The arguments of `convert_lora_weights`.
struct ConvertLoraWeightsOptions {
  EnumChoice<LoraFormat> format = LoraFormat::kDiffusers;  ///< layout of the new file
  /// Name of the file that is read, as in LoadLoraWeightsOptions.
  std::string weight_name = {};
  /// Name of the file that is written. Not used by the format "peft", whose names are fixed.
  std::string output_name = "pytorch_lora_weights.safetensors";
};

/// Writes adapters, by default to one file with PEFT's names and `lora_adapter_metadata`, as diffusers'
/// `save_lora_weights` does.
/// @param folder is created if it does not exist
/// @param options models, adapter, file name and format
/// @throws ConfigError if no model is given, a model does not have the adapter, or the format cannot hold it
///   (DoRA in kohya-ss files)
/// @throws FileError if the file cannot be written
void save_lora_weights(const std::filesystem::path& folder, const SaveLoraWeightsOptions& options);

/// Adds the adapter of a file to models and makes it the active one. Reads the files of diffusers' and PEFT's
/// versions, of the attention processors before PEFT, of kohya-ss (`lora_unet_...`, `lora_te_...`), with the
/// layer names of diffusers and of Stable Diffusion XL's original UNet, and of cloneofsimo's lora_diffusion
/// (`unet:0:down`). Rank and alpha come from `lora_adapter_metadata`, from an adapter_config.json beside
/// adapter_model.safetensors, or from the tensors and the `.alpha` keys; without all alpha is the rank. If an
/// error is thrown, no model has changed. Draws no random numbers.
/// @param path folder or file
/// @param modules the models; those that the file does not mention stay unchanged
/// @param options names of the adapter and of the file
/// @return the name of the adapter
/// @throws FileError naming the tensors that belong to no layer or have a wrong shape, and the formats that
///   are not supported (LoHa, LoKr, GLoRA, (IA)^3, OFT, VeRA, full weights, norms and DoRA of LyCORIS)
/// @throws ConfigError if the metadata has a setting that is not supported, or the name is in use
std::string load_lora_weights(const std::filesystem::path& path, const LoraModules& modules,
                              const LoadLoraWeightsOptions& options = {});

/// Writes the adapters of a file in another layout. Reads every layout that `load_lora_weights` reads. The
/// models are not changed; they give the names of the layers. The values and dtypes of the tensors are kept.
/// @param path folder or file
/// @param folder is created if it does not exist
/// @param modules the models that the file has adapters of
/// @param options the new layout and the names of the files
/// @throws FileError as `load_lora_weights`; ConfigError if the new layout cannot hold the adapter
void convert_lora_weights(const std::filesystem::path& path, const std::filesystem::path& folder,
                          const LoraModules& modules, const ConvertLoraWeightsOptions& options = {});

}  // namespace diffusers
