#include "training/optim/update_rule.h"

#include <ATen/ATen.h>

namespace diffusers {

std::vector<Tensor> UpdateBatch::column(std::size_t index) const {
  std::vector<Tensor> tensors;
  tensors.reserve(states.size());
  for (const ParameterState* state : states) tensors.push_back(state->at(index).second);
  return tensors;
}

Tensor new_step_count(const Tensor& parameter) {
  return at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(parameter.device()));
}

void uncount_skipped(const std::vector<Tensor>& steps, const std::optional<Tensor>& skip) {
  if (skip) at::_foreach_sub_(steps, std::vector<Tensor>(steps.size(), skip->squeeze()));
}

}  // namespace diffusers
