#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/t2i_adapter.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/control/numbered_folders.h"

namespace diffusers {

MultiAdapterImpl::MultiAdapterImpl(std::vector<T2IAdapter> adapters)
    : torch::nn::Module("MultiAdapter"),  // its class in model_index.json
      adapters_(std::move(adapters)) {
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
  save_numbered(adapters_, folder, options);
}

MultiAdapter MultiAdapter::from_pretrained(const std::filesystem::path& folder,
                                           const ModelLoadOptions& options) {
  return MultiAdapter(load_numbered<T2IAdapter>(folder, options));
}

}  // namespace diffusers
