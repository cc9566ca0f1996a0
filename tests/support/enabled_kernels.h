#pragma once

#include <diffusers/ops/fused.h>

namespace diffusers::test {

/// Enables the kernels until the scope ends, also in a process with DIFFUSERS_FUSED=0.
class EnabledKernels {
 public:
  EnabledKernels() { ops::set_fused(true); }
  EnabledKernels(const EnabledKernels&) = delete;
  EnabledKernels& operator=(const EnabledKernels&) = delete;
  ~EnabledKernels() { ops::set_fused(before_); }

 private:
  bool before_ = ops::fused();
};

}  // namespace diffusers::test
