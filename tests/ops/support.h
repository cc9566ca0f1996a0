#pragma once

#include <cstdint>

#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace diffusers::testing {

/// Sets the process-wide switch for a scope.
class FusedCpu {
 public:
  explicit FusedCpu(bool enabled) : before_(fused_cpu()) { set_fused_cpu(enabled); }
  ~FusedCpu() { set_fused_cpu(before_); }
  FusedCpu(const FusedCpu&) = delete;
  FusedCpu& operator=(const FusedCpu&) = delete;

 private:
  bool before_;
};

/// Sets the process-wide mode for a scope.
class Winograd {
 public:
  explicit Winograd(WinogradMode mode) : before_(winograd()) { set_winograd(mode); }
  ~Winograd() { set_winograd(before_); }
  Winograd(const Winograd&) = delete;
  Winograd& operator=(const Winograd&) = delete;

 private:
  WinogradMode before_;
};

class Threads {
 public:
  explicit Threads(int count) : before_(at::get_num_threads()) { at::set_num_threads(count); }
  ~Threads() { at::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// Compares each element with `expected`. The tolerance is relative to the largest magnitude in `expected`.
inline void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance,
                         const char* what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  if (expected.numel() == 0) return;
  const double scale = expected.abs().max().to(at::kDouble).item<double>();
  const double error = (actual.to(at::kDouble) - expected.to(at::kDouble)).abs().max().item<double>();
  EXPECT_LE(error, tolerance * scale) << what << " with values up to " << scale;
}

inline at::Tensor normal(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::randn(shape, at::TensorOptions().dtype(dtype));
}

/// Returns a copy that is a leaf tensor.
inline at::Tensor leaf(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.detach().to(dtype).clone().set_requires_grad(true);
}

}  // namespace diffusers::testing
