#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/t2i_adapter.h>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// Returns `folder` for the first adapter, then folder_1, folder_2, ...
std::filesystem::path adapter_folder(const std::filesystem::path& folder, std::size_t index) {
  return index == 0 ? folder : std::filesystem::path(fmt::format("{}_{}", folder.string(), index));
}

}  // namespace

MultiAdapterImpl::MultiAdapterImpl(std::vector<T2IAdapter> adapters) : adapters_(std::move(adapters)) {
  require<ConfigError>(adapters_.size() >= 2,
                       "adapters has {} elements, expected at least two; one works alone", adapters_.size());
  auto list = std::make_shared<layers::ModuleVectorImpl<T2IAdapter>>();
  for (std::size_t i = 0; i < adapters_.size(); ++i) {
    const auto& adapter = adapters_[i];
    require<ConfigError>(!adapter.is_empty(), "adapters[{}] is empty", i);
    require<ConfigError>(
        adapter->total_downscale_factor() == total_downscale_factor() &&
            adapter->downscale_factor() == downscale_factor(),
        "adapters must downscale alike: total_downscale_factor is {} and downscale_factor {} for "
        "adapters[0], {} and {} for adapters[{}]",
        total_downscale_factor(), downscale_factor(), adapter->total_downscale_factor(),
        adapter->downscale_factor(), i);
    list->push_back(adapter);
  }
  register_module("adapters", list);
}

int64_t MultiAdapterImpl::total_downscale_factor() const { return adapters_[0]->total_downscale_factor(); }
int64_t MultiAdapterImpl::downscale_factor() const { return adapters_[0]->downscale_factor(); }

std::vector<Tensor> MultiAdapterImpl::forward(
    const std::vector<Tensor>& xs, const std::optional<std::vector<double>>& adapter_weights) const {
  const auto count = adapters_.size();
  const auto weights = adapter_weights.value_or(std::vector<double>(count, 1.0 / static_cast<double>(count)));
  require<TensorError>(xs.size() == count && weights.size() == count,
                       "{} images and {} weights for {} adapters, expected one of each for every adapter",
                       xs.size(), weights.size(), count);
  std::vector<Tensor> sum;
  for (std::size_t i = 0; i < count; ++i) {
    // As in Python, the weights are float32 for every dtype of the features.
    const auto weight = static_cast<double>(static_cast<float>(weights[i]));
    const auto features = adapters_[i]->forward(xs[i]);
    require<TensorError>(sum.empty() || features.size() == sum.size(),
                         "adapters[{}] gives {} features and adapters[0] {}, expected as many", i,
                         features.size(), sum.size());
    for (std::size_t level = 0; level < features.size(); ++level) {
      const auto weighted = weight * features[level];
      if (i == 0) {
        sum.push_back(weighted);
        continue;
      }
      require<TensorError>(weighted.sizes() == sum[level].sizes(),
                           "features of adapters[{}] are {}, of adapters[0] {}", i,
                           shape_string(weighted.sizes()), shape_string(sum[level].sizes()));
      sum[level] = sum[level] + weighted;
    }
  }
  return sum;
}

void MultiAdapterImpl::save_pretrained(const std::filesystem::path& folder,
                                       const ModelSaveOptions& options) const {
  for (std::size_t i = 0; i < adapters_.size(); ++i)
    adapters_[i]->save_pretrained(adapter_folder(folder, i), options);
}

MultiAdapter MultiAdapter::from_pretrained(const std::filesystem::path& folder,
                                           const ModelLoadOptions& options) {
  // The folders of the adapters are siblings: inside of `folder`, or next to it if there is no subfolder.
  const bool is_named = options.subfolder.empty();
  const auto root = is_named ? std::filesystem::path(parent_folder(folder.string())) : folder;
  const std::string first = is_named ? base_name(folder.string()) : options.subfolder;
  auto each = options;
  std::vector<T2IAdapter> adapters{T2IAdapter::from_pretrained(folder, options)};
  while (true) {
    each.subfolder = adapter_folder(first, adapters.size()).string();
    if (!folder_exists((root / each.subfolder).string())) break;
    adapters.push_back(T2IAdapter::from_pretrained(root, each));
  }
  return MultiAdapter(std::move(adapters));
}

}  // namespace diffusers
