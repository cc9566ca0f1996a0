#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/model.h>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace diffusers {

/// Several ControlNets whose residuals are added (diffusers `MultiControlNetModel`).
class MultiControlNetModelImpl : public torch::nn::Module {
 public:
  static constexpr std::string_view kClassName = "MultiControlNetModel";  ///< class name in model_index.json

  /// Combines ControlNets. They are shared, not copied.
  /// @param nets at least one
  /// @throws ConfigError if there is none, or if one is empty
  explicit MultiControlNetModelImpl(std::vector<ControlNetModel> nets);
  /// Computes the sum of the residuals of all nets. A net whose scale is 0 is not run.
  /// @param sample as `ControlNetModel` takes it
  /// @param timesteps `[B]`, `[1]` or 0-dim
  /// @param encoder_hidden_states as `ControlNetModel` takes them
  /// @param controlnet_cond one conditioning image for each net, each `[B, conditioning_channels, 8 H, 8 W]`
  /// @param conditioning_scale factor of the residuals of each net
  /// @param options the other inputs; `conditioning_scale` is replaced
  /// @return the residuals; none if all scales are 0
  /// @throws TensorError if the numbers of images, scales and nets differ, if the residuals of two nets
  ///   differ in number or shape, and as `ControlNetModel`
  ControlNetOutput forward(const Tensor& sample, const Tensor& timesteps, const Tensor& encoder_hidden_states,
                           const std::vector<Tensor>& controlnet_cond,
                           const std::vector<double>& conditioning_scale,
                           const ControlNetModelForwardOptions& options = {}) const;
  /// @return the ControlNets
  const std::vector<ControlNetModel>& nets() const { return nets_; }
  /// @return Python's name of the class
  static std::string class_name() { return std::string(kClassName); }
  /// Saves the first net into `folder`, and the others into folder_1, folder_2, ... next to it.
  /// @param folder is created if it does not exist
  /// @param options variant and size of shards
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder, const ModelSaveOptions& options = {}) const;

 private:
  std::vector<ControlNetModel> nets_;
};

/// A handle of a `MultiControlNetModelImpl`: `MultiControlNetModel nets({edges, depth});`
class MultiControlNetModel : public torch::nn::ModuleHolder<MultiControlNetModelImpl> {
 public:
  /// Makes an empty holder.
  MultiControlNetModel(std::nullptr_t)  // NOLINT(google-explicit-constructor)
      : torch::nn::ModuleHolder<MultiControlNetModelImpl>(nullptr) {}
  /// Combines ControlNets.
  /// @param nets at least one
  /// @throws ConfigError as `MultiControlNetModelImpl`
  explicit MultiControlNetModel(std::vector<ControlNetModel> nets)
      : torch::nn::ModuleHolder<MultiControlNetModelImpl>(
            std::make_shared<MultiControlNetModelImpl>(std::move(nets))) {}
  /// Loads the nets in `folder`, folder_1, folder_2, ... up to the first that does not exist.
  /// @param folder folder of the first net
  /// @param options variant, dtype and device
  /// @return the nets, each in eval mode
  /// @throws FileError, ConfigError as `ControlNetModel::from_pretrained`
  static MultiControlNetModel from_pretrained(const std::filesystem::path& folder,
                                              const ModelLoadOptions& options = {});
};

}  // namespace diffusers
