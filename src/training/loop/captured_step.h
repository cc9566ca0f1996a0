#pragma once

// The forward and backward pass of a training step as a CUDA graph.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/data/batch.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

#include "core/captured_graph.h"

namespace diffusers {
inline namespace internal {

/// The name of a captured step in messages.
constexpr const char* kCapturedStepName = "the training step";

/// Returns why the steps of a training cannot be captured, before anything runs.
/// @param updates number of updates of the task
/// @param batch the first batch
/// @return empty if nothing speaks against it
std::string capture_obstacle(const Task& task, const TrainingConfig& config, std::size_t updates,
                             const Batch& batch);

/// Result of a forward and backward pass, 0-dim tensors each.
struct StepResult {
  Tensor loss;
  std::vector<NamedValue> values;
};

/// Captures the forward and backward pass of one batch after two steps and replays it. Random numbers, losses
/// and gradients are those of the same training without a graph.
class CapturedStep {
 public:
  /// A pass over a batch on the device, which leaves the gradients in the parameters.
  using Pass = std::function<StepResult(const Batch& batch)>;

  /// @param parameters that get a gradient; they have none before each call of `run`
  /// @param generator of the noise and the timesteps
  /// @param backend of the device; null: nothing is captured
  CapturedStep(std::vector<Tensor> parameters, const Generator& generator,
               std::unique_ptr<GraphBackend> backend);

  /// Runs a pass, or replays it.
  /// @param batch on the device; its images and class labels are the only fields that the pass reads
  StepResult run(const Batch& batch, const Pass& pass);

 private:
  std::vector<Tensor> parameters_;
  std::vector<Tensor> gradients_;   // of the captured pass
  std::vector<std::string> names_;  // of the values
  CapturedGraph graph_;
};

}  // namespace internal
}  // namespace diffusers
