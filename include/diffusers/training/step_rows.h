#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/task.h>

namespace diffusers {

/// Finds the rows of a batch in random numbers that are drawn for all samples of a step at once. A step of
/// several small batches then draws what one large batch draws.
class StepRows {
 public:
  /// Starts a step.
  /// @param context gives the number of samples of the step
  void begin_step(const StepContext& context) {
    samples_ = context.samples;
    shape_.clear();
  }

  /// Returns where the rows of the next batch begin.
  /// @param x0 `[B, ...]` of the batch
  /// @param draw is called with `[samples of the step, ...]` before the first batch of a step, and again for
  /// a batch of another shape or beyond the announced number of samples
  /// @return index of the first of the B rows
  template <class F>
  int64_t next(const Tensor& x0, F draw) {
    std::vector<int64_t> shape = x0.sizes().vec();
    const int64_t batch_size = shape[0];
    shape[0] = std::max(samples_, batch_size);
    if (shape != shape_ || used_ + batch_size > shape[0]) {
      draw(at::IntArrayRef(shape));
      shape_ = shape;
      used_ = 0;
    }
    used_ += batch_size;
    return used_ - batch_size;
  }

 private:
  int64_t samples_ = 0;
  std::vector<int64_t> shape_;  // of the last draw; empty: none in this step
  int64_t used_ = 0;            // rows that earlier batches have taken
};

}  // namespace diffusers
