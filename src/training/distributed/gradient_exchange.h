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

  /// Computes the gradients of a loss and adds them to those of the step. All processes call it for each
  /// loss.
  /// @param loss share of this process in the loss of the step; the gradients of all processes are added
  /// @param is_last true for the last loss of a step. Afterwards the gradients are the sums over all
  /// processes
  /// @throws ConfigError if parameters got no gradient, and `find_unused_parameters` is false
  /// @throws Error if a process has ended or does not answer within the timeout
  virtual void backward(const Tensor& loss, bool is_last) = 0;

 protected:
  /// @param parameters all of them require a gradient; the same on all processes
  explicit GradientExchange(std::vector<Tensor> parameters) : parameters_(std::move(parameters)) {}
  const std::vector<Tensor>& parameters() const { return parameters_; }

 private:
  std::vector<Tensor> parameters_;
};

}  // namespace internal
}  // namespace diffusers
