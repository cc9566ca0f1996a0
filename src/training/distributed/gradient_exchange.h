#pragma once

#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// The exchange of an update's gradients between processes.
class GradientExchange {
 public:
  GradientExchange(const GradientExchange&) = delete;
  GradientExchange& operator=(const GradientExchange&) = delete;
  virtual ~GradientExchange() = default;

  /// Computes the gradients of a loss and adds them to those of the step.
  /// @param loss share of this process in the loss of the step; the gradients of all processes are added
  /// @param is_last true for the last loss of a step. Afterwards the gradients are the sums over all
  /// processes
  /// @throws ConfigError if parameters got no gradient, and `find_unused_parameters` is false
  /// @throws Error if a process has ended or does not answer within the timeout
  virtual void backward(const Tensor& loss, bool is_last) = 0;
  /// Returns true if all processes must call `backward` for each loss; false: for the last one of a step.
  virtual bool exchanges_each_loss() const = 0;
  /// Returns a loss of 0 that gives each parameter a gradient of 0, for a process without samples.
  Tensor zero_loss() const;

 protected:
  /// @param parameters all of them require a gradient; the same on all processes
  explicit GradientExchange(std::vector<Tensor> parameters) : parameters_(std::move(parameters)) {}
  const std::vector<Tensor>& parameters() const { return parameters_; }

 private:
  std::vector<Tensor> parameters_;
};

}  // namespace internal
}  // namespace diffusers
