#pragma once

// The exchange of gradients between processes that each need those of their own parameters.

#include <memory>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/process_group.h>

#include "training/distributed/gradient_exchange.h"
#include "training/distributed/parameter_shards.h"

namespace diffusers {
inline namespace internal {

/// Sums the gradients of each parameter on its owner, in buckets, while the backward pass still computes
/// others (`zero_stage` 2). A gradient leaves its parameter as soon as it is in a bucket, and a bucket is
/// freed when it was sent. After the last loss of a step, the own parameters have a gradient, and the others
/// have none.
class ShardedReducer : public GradientExchange {
 public:
  /// @param parameters all of them require a gradient; the same on all processes
  /// @param shards their owners
  /// @param group a connected group
  ShardedReducer(const std::vector<Tensor>& parameters, const ParameterShards& shards, ProcessGroup group);
  ShardedReducer(const ShardedReducer&) = delete;
  ShardedReducer& operator=(const ShardedReducer&) = delete;
  ~ShardedReducer() override;

  /// See GradientExchange. Each loss exchanges its gradients, so that the sums of a step are only on the
  /// owners.
  /// @throws ConfigError if a gradient is completed twice in a backward pass
  void backward(const Tensor& loss, bool is_last) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace internal
}  // namespace diffusers
