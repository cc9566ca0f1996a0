#include "models/module_modes.h"

namespace diffusers {
inline namespace internal {

void ModuleModes::add(torch::nn::Module& module, const std::shared_ptr<torch::nn::Module>& owner) {
  modes_.push_back({&module, owner, module.is_training()});
  for (const auto& child : module.children()) add(*child, child);
}

void ModuleModes::restore() const {
  // `train` also changes the submodules, which come later in the list.
  for (const Mode& mode : modes_)
    if (mode.module->is_training() != mode.is_training) mode.module->train(mode.is_training);
}

}  // namespace internal
}  // namespace diffusers
