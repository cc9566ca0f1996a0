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

/// Architecture of a T2IAdapter.
enum class T2IAdapterType {
  kFullAdapter,    ///< each block after the first halves the resolution (Stable Diffusion 1.x)
  kFullAdapterXl,  ///< only the third block halves the resolution (Stable Diffusion XL)
  kLightAdapter    ///< blocks with a quarter of the channels, and one more block
};
/// Maps each enumerator to Python's string.
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
  int64_t in_channels = 3;  ///< channels of the control image
  std::vector<int64_t> channels = {320, 640, 1280,
                                   1280};  ///< channels of the features, from the highest resolution
  int64_t num_res_blocks = 2;              ///< residual blocks of each block
  int64_t downscale_factor = 8;            ///< factor of the pixel unshuffle before the first block
  EnumChoice<T2IAdapterType> adapter_type = T2IAdapterType::kFullAdapter;  ///< architecture
};

/// Lists the fields of a config for reading and writing config.json.
/// @param config the fields
/// @param visit called once for each field
void visit_fields(T2IAdapterConfig& config, ConfigVisitor& visit);

inline namespace internal {
class T2IAdapterBody;
}  // namespace internal

/// A residual network that computes features of a control image for a UNet2DConditionModel (Mou et al. 2023;
/// diffusers `T2IAdapter`).
class T2IAdapterImpl : public ModelImpl<T2IAdapterImpl, T2IAdapterConfig> {
 public:
  static constexpr std::string_view kClassName = "T2IAdapter";  ///< class name in config.json

  /// Makes a model with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit T2IAdapterImpl(T2IAdapterConfig config = {});
  /// Builds the layers again with new weights.
  void reset() override;

  /// Computes the features of a control image.
  /// @param x `[B, in_channels, H, W]`, dtype and device of the model; H and W are multiples of
  ///   downscale_factor
  /// @return one tensor for each block, from the highest resolution
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit
  std::vector<Tensor> forward(const Tensor& x) const;

  /// @return height of the image divided by the height of the last features, as Python computes it
  int64_t total_downscale_factor() const;
  /// @return factor of the pixel unshuffle
  int64_t downscale_factor() const { return config().downscale_factor; }

 private:
  std::shared_ptr<T2IAdapterBody> adapter_;
};

/// A handle of a `T2IAdapterImpl`: `T2IAdapter adapter({.channels = {320, 640, 1280}, .adapter_type =
/// "light_adapter"});`
using T2IAdapter = ModelHolder<T2IAdapterImpl, T2IAdapterConfig>;

/// Several adapters whose features are added with weights (diffusers `MultiAdapter`).
class MultiAdapterImpl : public torch::nn::Module {
 public:
  /// Combines adapters.
  /// @param adapters at least two, with equal downscale factors
  /// @throws ConfigError for fewer than two adapters, or if their downscale factors differ
  explicit MultiAdapterImpl(std::vector<T2IAdapter> adapters);
  /// Computes the weighted sum of the adapters' features.
  /// @param xs one image for each adapter, as `T2IAdapter::forward` takes it
  /// @param adapter_weights one weight for each adapter; nullopt: 1 / number of adapters
  /// @return one tensor for each block, from the highest resolution
  /// @throws TensorError if an image does not fit its adapter, or if the number of images or weights is not
  ///   the number of adapters
  std::vector<Tensor> forward(const std::vector<Tensor>& xs,
                              const std::optional<std::vector<double>>& adapter_weights = std::nullopt) const;
  /// @return total_downscale_factor of the adapters
  int64_t total_downscale_factor() const;
  /// @return downscale_factor of the adapters
  int64_t downscale_factor() const;
  /// @return the adapters
  const std::vector<T2IAdapter>& adapters() const { return adapters_; }
  /// Saves the first adapter into `folder`, and the others into folder_1, folder_2, ... next to it.
  /// @param folder is created if it does not exist
  /// @param options variant and size of shards
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder, const ModelSaveOptions& options = {}) const;

 private:
  std::vector<T2IAdapter> adapters_;
};

/// A handle of a `MultiAdapterImpl`: `MultiAdapter adapters({depth, pose});`
class MultiAdapter : public torch::nn::ModuleHolder<MultiAdapterImpl> {
 public:
  /// Makes an empty holder.
  MultiAdapter(std::nullptr_t)  // NOLINT(google-explicit-constructor)
      : torch::nn::ModuleHolder<MultiAdapterImpl>(nullptr) {}
  /// Combines adapters.
  /// @param adapters at least two, with equal downscale factors
  /// @throws ConfigError as `MultiAdapterImpl`
  explicit MultiAdapter(std::vector<T2IAdapter> adapters)
      : torch::nn::ModuleHolder<MultiAdapterImpl>(std::make_shared<MultiAdapterImpl>(std::move(adapters))) {}
  /// Loads the adapters in `folder`, folder_1, folder_2, ... up to the first that does not exist.
  /// @param folder folder of the first adapter
  /// @param options variant, dtype and device
  /// @return the adapters, each in eval mode
  /// @throws FileError as `T2IAdapter::from_pretrained`
  /// @throws ConfigError as `T2IAdapter::from_pretrained`, or as `MultiAdapterImpl`
  static MultiAdapter from_pretrained(const std::filesystem::path& folder,
                                      const ModelLoadOptions& options = {});
};

}  // namespace diffusers
