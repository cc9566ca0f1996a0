#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>

namespace diffusers {

enum class T2IAdapterType { kFullAdapter, kFullAdapterXl, kLightAdapter };
template <>
struct EnumNames<T2IAdapterType> {
  static constexpr std::string_view kKey = "adapter_type";
  static constexpr std::array<std::pair<T2IAdapterType, std::string_view>, 3> kTable{
      {{T2IAdapterType::kFullAdapter, "full_adapter"},
       {T2IAdapterType::kFullAdapterXl, "full_adapter_xl"},
       {T2IAdapterType::kLightAdapter, "light_adapter"}}};
};

/// The arguments of Python's `T2IAdapter(...)`, with its defaults.
struct T2IAdapterConfig {
  int64_t in_channels = 3;
  std::vector<int64_t> channels = {320, 640, 1280, 1280};  ///< of the features, from the highest resolution
  int64_t num_res_blocks = 2;                              ///< in each block
  int64_t downscale_factor = 8;                            ///< of the pixel unshuffle in front
  /// "full_adapter": each block after the first halves the resolution, one block for each of `channels`.
  /// "full_adapter_xl": only the third block does. "light_adapter": narrow blocks, and one block more.
  EnumChoice<T2IAdapterType> adapter_type = T2IAdapterType::kFullAdapter;
};

void read_model_config(std::string_view json, std::string_view where, T2IAdapterConfig& config,
                       std::string& source, LoadReport& report);
std::string write_model_config(const T2IAdapterConfig& config, std::string_view source);

class T2IAdapterBody;

/// A residual network that makes features for a UNet2DConditionModel of a control image (Mou et al. 2023;
/// diffusers `T2IAdapter`).
class T2IAdapterImpl : public ModelImpl<T2IAdapterImpl, T2IAdapterConfig> {
 public:
  static constexpr std::string_view kClassName = "T2IAdapter";

  /// @throws ConfigError naming the key and the value that cannot work
  explicit T2IAdapterImpl(T2IAdapterConfig config = {});
  void reset() override;

  /// @param x `[B, in_channels, H, W]`, dtype and device of the model; downscale_factor divides H and W
  /// @return one tensor for each block, from the highest resolution
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  std::vector<Tensor> forward(const Tensor& x) const;

  /// How much smaller than the image the last features are, as Python counts it.
  int64_t total_downscale_factor() const;
  int64_t downscale_factor() const { return config().downscale_factor; }

 private:
  std::shared_ptr<T2IAdapterBody> adapter_;
};

/// `T2IAdapter adapter({.channels = {320, 640, 1280}, .adapter_type = "light_adapter"});`
using T2IAdapter = ModelHolder<T2IAdapterImpl, T2IAdapterConfig>;

/// Several adapters whose features are added with weights (diffusers `MultiAdapter`).
class MultiAdapterImpl : public torch::nn::Module {
 public:
  /// @throws ConfigError for fewer than two adapters, or if they do not downscale alike
  explicit MultiAdapterImpl(std::vector<T2IAdapter> adapters);
  /// @param xs one image for each adapter
  /// @param adapter_weights one for each adapter, 1 / number of adapters by default
  std::vector<Tensor> forward(const std::vector<Tensor>& xs,
                              const std::optional<std::vector<double>>& adapter_weights = std::nullopt) const;
  int64_t total_downscale_factor() const;
  int64_t downscale_factor() const;
  const std::vector<T2IAdapter>& adapters() const { return adapters_; }
  /// Saves the first adapter into `folder`, and the others into folder_1, folder_2, ... next to it.
  /// @throws FileError
  void save_pretrained(const std::filesystem::path& folder, const ModelSaveOptions& options = {}) const;

 private:
  std::vector<T2IAdapter> adapters_;
};

/// `MultiAdapter adapters({depth, pose});`
class MultiAdapter : public torch::nn::ModuleHolder<MultiAdapterImpl> {
 public:
  /// An empty holder, to be assigned to later.
  MultiAdapter(std::nullptr_t)  // NOLINT(google-explicit-constructor)
      : torch::nn::ModuleHolder<MultiAdapterImpl>(nullptr) {}
  /// @throws ConfigError as MultiAdapterImpl
  explicit MultiAdapter(std::vector<T2IAdapter> adapters)
      : torch::nn::ModuleHolder<MultiAdapterImpl>(std::make_shared<MultiAdapterImpl>(std::move(adapters))) {}
  /// Loads the adapters in `folder`, folder_1, folder_2, ... up to the first that does not exist.
  /// @throws FileError, ConfigError as T2IAdapter::from_pretrained
  static MultiAdapter from_pretrained(const std::filesystem::path& folder,
                                      const ModelLoadOptions& options = {});
};

}  // namespace diffusers
