#pragma once

// The exchange of gradients between processes that all need them.

#include <memory>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/process_group.h>

#include "training/distributed/gradient_exchange.h"

namespace diffusers {
inline namespace internal {

/// Sums the gradients of an update's parameters over all processes, in buckets, while the backward pass still
/// computes others (c10d::Reducer, on which Python's DistributedDataParallel runs). The gradients are views
/// of the buckets.
class GradientReducer : public GradientExchange {
 public:
  /// @param parameters all of them require a gradient; the same on all processes
  /// @param group a connected group
  GradientReducer(const std::vector<Tensor>& parameters, ProcessGroup group);
  GradientReducer(const GradientReducer&) = delete;
  GradientReducer& operator=(const GradientReducer&) = delete;
  ~GradientReducer() override;

  /// See GradientExchange. Only the last loss of a step exchanges gradients.
  void backward(const Tensor& loss, bool is_last) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace internal
}  // namespace diffusers
