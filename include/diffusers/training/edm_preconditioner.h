#pragma once

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Computes the preconditioned denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) of a model F
/// (Karras et al. 2022, arXiv 2206.00364, eq. 7). The input and the target of F have unit variance at every
/// noise level. The formulas are those of diffusers' EDMEulerScheduler with prediction_type "epsilon". In the
/// formulas, d is sigma_data.
///
/// Each `sigma` is a floating tensor of positive noise levels. The coefficients have its shape and dtype.
class EDMPreconditioner {
 public:
  /// Creates a preconditioner.
  /// @param sigma_data standard deviation of the data, above 0
  /// @throws ConfigError if sigma_data is not a finite number above 0
  explicit EDMPreconditioner(double sigma_data = 0.5);

  /// @return the standard deviation of the data
  double sigma_data() const { return sigma_data_; }
  /// @param sigma noise levels
  /// @return d^2 / (sigma^2 + d^2)
  Tensor c_skip(const Tensor& sigma) const;
  /// @param sigma noise levels
  /// @return sigma d / sqrt(sigma^2 + d^2)
  Tensor c_out(const Tensor& sigma) const;
  /// @param sigma noise levels
  /// @return 1 / sqrt(sigma^2 + d^2)
  Tensor c_in(const Tensor& sigma) const;
  /// @param sigma noise levels
  /// @return log(sigma) / 4, which F receives as its timestep
  Tensor c_noise(const Tensor& sigma) const;
  /// @param sigma noise levels
  /// @return lambda = (sigma^2 + d^2) / (sigma d)^2 = 1 / c_out^2, the weight of the squared error of D
  Tensor loss_weight(const Tensor& sigma) const;

  /// Computes the input of F.
  /// @param sample x `[B, ...]`, floating
  /// @param sigma 0-dim or `[B]`
  /// @return c_in x, shape and dtype of x
  /// @throws TensorError if shapes or dtypes do not fit
  Tensor precondition_inputs(const Tensor& sample, const Tensor& sigma) const;
  /// Computes D from the output of F.
  /// @param sample x `[B, ...]`, floating
  /// @param model_output F, shape of x
  /// @param sigma 0-dim or `[B]`
  /// @return c_skip x + c_out F
  /// @throws TensorError if shapes or dtypes do not fit
  Tensor precondition_outputs(const Tensor& sample, const Tensor& model_output, const Tensor& sigma) const;
  /// Computes the target of F for x = x_0 + sigma n: (x_0 - c_skip x) / c_out, in the form
  /// (sigma / d x_0 - d n) / sqrt(sigma^2 + d^2), which has no cancellation. The squared error of F is lambda
  /// times that of D.
  /// @param x0 clean samples `[B, ...]`, floating
  /// @param noise n, shape of x0
  /// @param sigma 0-dim or `[B]`
  /// @return shape and dtype of x0
  /// @throws TensorError if shapes or dtypes do not fit
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const;

  /// Computes D(x; sigma).
  /// @param model F; `make_denoiser` makes a Denoiser of a model
  /// @param noisy x `[B, C, H, W]`, floating
  /// @param sigma 0-dim or `[B]`
  /// @param conditioning inputs of the model besides x and sigma
  /// @return shape and dtype of `noisy`
  /// @throws TensorError if the model's output has another shape, or sigma does not fit
  Tensor denoise(const Denoiser& model, const Tensor& noisy, const Tensor& sigma,
                 const Conditioning& conditioning = {}) const;

 private:
  double sigma_data_;
};

}  // namespace diffusers
