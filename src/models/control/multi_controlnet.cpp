#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/multi_controlnet.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/control/numbered_folders.h"

namespace diffusers {
namespace {

void add_residual(Tensor& sum, const Tensor& residual, std::size_t net) {
  require<TensorError>(residual.sizes() == sum.sizes(),
                       "MultiControlNetModel: a residual of nets[{}] is {}, of the nets before {}", net,
                       shape_string(residual.sizes()), shape_string(sum.sizes()));
  sum = sum + residual;
}

}  // namespace

MultiControlNetModelImpl::MultiControlNetModelImpl(std::vector<ControlNetModel> nets)
    : nets_(std::move(nets)) {
  require<ConfigError>(!nets_.empty(), "MultiControlNetModel: nets is empty, expected at least one");
  auto list = std::make_shared<layers::ModuleVectorImpl<ControlNetModel>>();
  for (std::size_t i = 0; i < nets_.size(); ++i) {
    require<ConfigError>(!nets_[i].is_empty(), "MultiControlNetModel: nets[{}] is empty", i);
    list->push_back(nets_[i]);
  }
  register_module("nets", list);
}

ControlNetOutput MultiControlNetModelImpl::forward(const Tensor& sample, const Tensor& timesteps,
                                                   const Tensor& encoder_hidden_states,
                                                   const std::vector<Tensor>& controlnet_cond,
                                                   const std::vector<double>& conditioning_scale,
                                                   const ControlNetModelForwardOptions& options) const {
  require<TensorError>(controlnet_cond.size() == nets_.size() && conditioning_scale.size() == nets_.size(),
                       "MultiControlNetModel: {} images and {} scales for {} nets, expected one of each for "
                       "every net",
                       controlnet_cond.size(), conditioning_scale.size(), nets_.size());
  ControlNetOutput sum;
  for (std::size_t i = 0; i < nets_.size(); ++i) {
    if (conditioning_scale[i] == 0) continue;
    ControlNetModelForwardOptions each = options;
    each.conditioning_scale = conditioning_scale[i];
    ControlNetOutput output =
        nets_[i]->forward(sample, timesteps, encoder_hidden_states, controlnet_cond[i], each);
    if (!sum.mid_block_res_sample.defined()) {
      sum = std::move(output);
      continue;
    }
    require<TensorError>(output.down_block_res_samples.size() == sum.down_block_res_samples.size(),
                         "MultiControlNetModel: nets[{}] gives {} residuals, the nets before {}", i,
                         output.down_block_res_samples.size(), sum.down_block_res_samples.size());
    for (std::size_t level = 0; level < sum.down_block_res_samples.size(); ++level)
      add_residual(sum.down_block_res_samples[level], output.down_block_res_samples[level], i);
    add_residual(sum.mid_block_res_sample, output.mid_block_res_sample, i);
  }
  return sum;
}

void MultiControlNetModelImpl::save_pretrained(const std::filesystem::path& folder,
                                               const ModelSaveOptions& options) const {
  save_numbered(nets_, folder, options);
}

MultiControlNetModel MultiControlNetModel::from_pretrained(const std::filesystem::path& folder,
                                                           const ModelLoadOptions& options) {
  return MultiControlNetModel(load_numbered<ControlNetModel>(folder, options));
}

}  // namespace diffusers
