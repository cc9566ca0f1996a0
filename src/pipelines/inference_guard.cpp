#include <algorithm>
#include <list>
#include <memory>
#include <vector>

#include <diffusers/pipelines/inference_guard.h>

#include <ATen/core/grad_mode.h>

#include "core/freed_memory.h"
#include "models/module_modes.h"

namespace diffusers {

struct InferenceGuard::State {
  FreedMemoryScope memory;
  at::NoGradGuard no_grad;
  std::vector<std::shared_ptr<torch::nn::Module>> modules;  // kept alive if a callback replaces a component
  std::list<EvalGuard> modes;
};

InferenceGuard::InferenceGuard(const DiffusionPipeline& pipeline) : state_(std::make_unique<State>()) {
  for (const auto& [name, component] : pipeline.components()) {
    const auto module = component.module();
    // Components may share a module. A second guard would find it in eval mode and never restore its mode.
    if (module == nullptr || std::ranges::find(state_->modules, module) != state_->modules.end()) continue;
    state_->modules.push_back(module);
    state_->modes.emplace_back(*module);
  }
}

InferenceGuard::~InferenceGuard() = default;

}  // namespace diffusers
