#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/task.h>

namespace diffusers {

/// Assigns rows of the random numbers of a step to its batches. The random numbers are drawn for all samples
/// of the step at once. Several small batches therefore get the same numbers as one large batch.
class StepRows {
 public:
  /// Starts a step.
  /// @param context its `samples` is the number of samples of the step
  void begin_step(const StepContext& context) {
    samples_ = context.samples;
    has_class_images_ = context.has_class_images;
    shape_.clear();
  }

  /// Assigns the next B rows to a batch.
  /// @param x0 `[B, ...]`, the clean samples of the batch
  /// @param draw function that draws random numbers of a shape `[N, ...]`. It is called with N = the samples
  /// of
  ///        the step before the first batch of a step. It is called again for a batch of another shape, and
  ///        if the step has more samples than `begin_step` announced
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
    count_ = batch_size;
    return used_ - batch_size;
  }

  /// Returns the rows of the batch that `next` was called for last. If the step has class images
  /// (`StepContext::has_class_images`), the instances get rows of the first half and the class images rows
  /// of the second half.
  /// @param drawn `[N, ...]`, drawn for all samples of the step; undefined: the result is undefined
  /// @return `[B, ...]`, a view where the rows are consecutive
  Tensor of(const Tensor& drawn) const;

 private:
  int64_t samples_ = 0;
  bool has_class_images_ = false;
  std::vector<int64_t> shape_;  // of the last draw; empty: none in this step
  int64_t used_ = 0;            // rows that the batches have taken
  int64_t count_ = 0;           // rows of the last batch
};

}  // namespace diffusers
