#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/task.h>

namespace diffusers {

/// Where the rows of a batch begin in what is drawn for all batches of a step at once, so that a step of
/// several small batches draws what one large batch draws.
class StepRows {
 public:
  void begin_step(const StepContext& context) {
    samples_ = context.samples;
    shape_.clear();
  }

  /// @param x0 `[B, ...]` of the next batch
  /// @param draw is called with `[samples of the step, ...]` before the step's first batch, and again for
  /// batches of
  ///        another shape or beyond the samples that were announced
  /// @return the first of the B rows
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
  std::vector<int64_t> shape_;  // of what was drawn last; empty: nothing in this step
  int64_t used_ = 0;            // rows of it, by the batches before
};

}  // namespace diffusers
