#pragma once

#include <memory>

#include <diffusers/models/layers.h>

namespace diffusers {
inline namespace internal {

/// Registers a list with one layer in a block (Python: `self.downsamplers = nn.ModuleList([layer])`).
template <class Layer>
void register_list_of_one(torch::nn::Module& block, const char* name, const Layer& layer) {
  auto list = std::make_shared<layers::ModuleVectorImpl<Layer>>();
  list->push_back(layer);
  block.register_module(name, list);
}

}  // namespace internal
}  // namespace diffusers
