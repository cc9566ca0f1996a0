#pragma once

#include <memory>
#include <vector>

#include <torch/nn/module.h>

namespace diffusers {
inline namespace internal {

/// Saved training flags of a module and of all its submodules.
class ModuleModes {
 public:
  explicit ModuleModes(torch::nn::Module& module) { add(module, nullptr); }
  /// Restores all flags.
  void restore() const;

 private:
  struct Mode {
    torch::nn::Module* module;
    std::shared_ptr<torch::nn::Module> owner;  // null for the outermost one
    bool is_training;
  };
  void add(torch::nn::Module& module, const std::shared_ptr<torch::nn::Module>& owner);

  std::vector<Mode> modes_;  // each module comes before its submodules
};

/// Puts a module and its submodules into eval mode and restores their modes at the end of the scope. The
/// module must outlive the scope.
class EvalGuard {
 public:
  explicit EvalGuard(torch::nn::Module& module) : modes_(module) { module.eval(); }
  EvalGuard(const EvalGuard&) = delete;
  EvalGuard& operator=(const EvalGuard&) = delete;
  ~EvalGuard() { modes_.restore(); }

 private:
  ModuleModes modes_;
};

}  // namespace internal
}  // namespace diffusers
