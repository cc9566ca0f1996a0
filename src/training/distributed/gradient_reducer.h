#pragma once

// The exchange of gradients between processes.

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/process_group.h>

namespace diffusers {
inline namespace internal {

/// Sums the gradients of an update's parameters over all processes, in buckets, while the backward pass still
/// computes others (c10d::Reducer, on which Python's DistributedDataParallel runs). The gradients are views
/// of the buckets.
class GradientReducer {
 public:
  /// @param parameters all of them require a gradient; the same on all processes
  /// @param group a connected group
  GradientReducer(const std::vector<Tensor>& parameters, ProcessGroup group);
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;
  ~GradientReducer();

  /// Computes the gradients of a loss and adds them to those of the parameters.
  /// @param loss share of this process in the loss of the step; the gradients of all processes are added
  /// @param is_last true for the last loss of a step: afterwards the gradients are the sums over all
  ///        processes. The earlier ones exchange nothing
  /// @throws ConfigError if parameters got no gradient, and `find_unused_parameters` is false
  /// @throws Error if a process has ended or does not answer within the timeout
  void backward(const Tensor& loss, bool is_last);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace internal
}  // namespace diffusers
