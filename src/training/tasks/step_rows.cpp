#include <diffusers/training/step_rows.h>

#include <ATen/ops/cat.h>

namespace diffusers {

Tensor StepRows::of(const Tensor& drawn) const {
  if (!drawn.defined()) return drawn;
  // A step of one batch takes all rows.
  if (!has_class_images_ || count_ == drawn.size(0)) return drawn.narrow(0, first_, count_);
  const int64_t half = count_ / 2;
  return at::cat({drawn.narrow(0, first_ / 2, half), drawn.narrow(0, drawn.size(0) / 2 + first_ / 2, half)});
}

}  // namespace diffusers
