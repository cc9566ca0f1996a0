#pragma once

#include <memory>

#include <diffusers/pipelines/diffusion_pipeline.h>

namespace diffusers {

/// The scope of a pipeline's call: no gradients, and all models in eval mode. At its end each module is in
/// the mode in which it was. Not to be passed to another thread.
class InferenceGuard {
 public:
  /// @param pipeline must outlive the guard
  explicit InferenceGuard(const DiffusionPipeline& pipeline);
  InferenceGuard(const InferenceGuard&) = delete;
  InferenceGuard& operator=(const InferenceGuard&) = delete;
  ~InferenceGuard();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace diffusers
