#pragma once

#include <memory>

#include <diffusers/pipelines/diffusion_pipeline.h>

namespace diffusers {

/// Disables gradients and sets all models of a pipeline to eval mode, for the duration of a call. The
/// destructor restores the mode of each module. Construct and destroy it on the same thread.
class InferenceGuard {
 public:
  /// Disables gradients and sets the models to eval mode.
  /// @param pipeline must outlive the guard
  explicit InferenceGuard(const DiffusionPipeline& pipeline);
  InferenceGuard(const InferenceGuard&) = delete;
  InferenceGuard& operator=(const InferenceGuard&) = delete;
  /// Restores gradients and modes.
  ~InferenceGuard();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffusers
