#pragma once

// For the tests that need a CUDA device. The suites `OnCuda` have the label `cuda` and are skipped without
// one.

#include <diffusers/core/cuda_options.h>

#include <ATen/Context.h>
#include <gtest/gtest.h>

#define DIFFUSERS_SKIP_WITHOUT_CUDA() \
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device"

namespace diffusers::test {

/// Sets the options of CUDA devices for a scope.
class CudaOptionsScope {
 public:
  explicit CudaOptionsScope(const CudaOptions& options) : before_(cuda_options()) {
    set_cuda_options(options);
  }
  CudaOptionsScope(const CudaOptionsScope&) = delete;
  CudaOptionsScope& operator=(const CudaOptionsScope&) = delete;
  ~CudaOptionsScope() { set_cuda_options(before_); }

 private:
  CudaOptions before_;
};

/// Returns options that round float32 as the CPU does, with the kernels on or off.
inline CudaOptions exact_options(bool kernels) {
  CudaOptions options;
  options.kernels = kernels;
  options.allow_tf32_cudnn = false;
  return options;
}

}  // namespace diffusers::test
