#pragma once

// The sum of the parts' gradients of each parameter.

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Sums the gradients of parameters over the parts of a batch, in the order of the parts.
///
/// The parts compute their backward passes at the same time. Each gradient is added when it is complete, so
/// that the parts together hold one set of gradients, and not one set for each part.
class PartGradients {
 public:
  /// @param parameters leaves that require a gradient
  PartGradients(const std::vector<Tensor>& parameters, std::size_t parts);
  PartGradients(const PartGradients&) = delete;
  PartGradients& operator=(const PartGradients&) = delete;
  ~PartGradients();

  /// Runs the backward pass of a part on the calling thread.
  /// @param output result of the part, with its graph, which is freed
  /// @param grad gradient of the output
  /// @param inputs other leaves of the part's graph
  /// @return the gradients of `inputs`; undefined for those that the output does not depend on
  std::vector<Tensor> backward(std::size_t part, Tensor& output, const Tensor& grad,
                               const std::vector<Tensor>& inputs);
  /// Counts a part without gradients.
  void skip(std::size_t part);

  /// Returns the sum of a parameter's gradients, after all parts; undefined if there is none.
  Tensor take_sum(std::size_t parameter) { return std::move(sums_[parameter].total); }

 private:
  /// The sum of one parameter's gradients.
  struct Sum {
    std::mutex mutex;
    Tensor total;                 // of the parts before `next`
    std::size_t next = 0;         // the first part that is not added
    std::vector<bool> has_part;   // that its gradient was given
    std::vector<Tensor> waiting;  // gradients of parts whose turn has not come
  };

  /// Adds the gradient of a part when its turn has come.
  /// @param grad undefined: the part does not use the parameter
  void give(std::size_t parameter, std::size_t part, Tensor grad);
  Tensor on_gradient(std::size_t parameter, const Tensor& grad);

  std::vector<Tensor> parameters_;
  std::vector<unsigned> hooks_;  // of each parameter
  std::vector<Sum> sums_;
};

}  // namespace internal
}  // namespace diffusers
