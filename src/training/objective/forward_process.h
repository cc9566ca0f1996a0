#pragma once

// The forward process of a training: the noisy sample, the input of the model and the target of its
// prediction.

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/loss_options.h>
#include <diffusers/training/timestep_sampler.h>

namespace diffusers {
inline namespace internal {

/// Maps clean samples, noise and times to the inputs and the target of a denoiser. The model receives the
/// same input as in sampling with `scheduler()` at the same time.
///
/// A time t is a training timestep (variance preserving), sigma times T (flow matching), or sigma (EDM). A
/// batch has one time for each sample. A process depends only on the scheduler's config: `set_timesteps`, a
/// begin index and steps of the scheduler have no effect. Its tables are copied to a device once.
class ForwardProcess {
 public:
  /// Factors of x_0 and of the noise in the noisy sample.
  struct Shares {
    Tensor signal, noise;
  };

  virtual ~ForwardProcess() = default;

  /// Returns x_t.
  /// @param x0 clean samples `[B, ...]`, floating
  /// @param noise standard normal noise, shape of x0
  /// @param t times `[B]`
  virtual Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const = 0;
  /// Returns the target of the prediction, shape of x0. The arguments are those of `noisy`.
  virtual Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& t) const = 0;
  /// Returns the model's input, shape of x_t. The default is x_t.
  virtual Tensor model_input(const Tensor& x_t, const Tensor& t) const;
  /// Returns the model's timesteps `[B]`. The default is t.
  virtual Tensor model_time(const Tensor& t) const;
  /// Returns the weight of the squared error of the prediction, float64 `[B]`; undefined if all are 1.
  virtual Tensor weight(const Tensor& t) const = 0;
  /// Returns the weight of this error in the variational bound, float64 `[B]`. It is undefined unless
  /// `original_elbo_weight` is above 0. The default is undefined.
  virtual Tensor bound_weight(const Tensor& t) const;

  /// Draws the times of `count` samples.
  /// @param sampler draws training timesteps; a process that draws its own noise levels does not use it
  /// @param count number of samples
  /// @param generator source of the random numbers
  /// @param options dtype and device of the samples
  virtual TimestepSampler::Draw draw(TimestepSampler& sampler, int64_t count,
                                     const std::optional<Generator>& generator,
                                     const at::TensorOptions& options) const = 0;
  /// True if the times of a step are drawn before its noise. The default is false, as in diffusers' scripts.
  virtual bool draws_times_first() const;
  /// Returns the times at positions of the noise schedule, for validation.
  /// @param positions `[B]` float64 in [0, 1) on the CPU; 0 is the least noise
  /// @param options dtype and device of the samples
  virtual Tensor times_at(const Tensor& positions, const at::TensorOptions& options) const = 0;
  /// Checks times. Values are read only on the CPU.
  /// @param where name of the called function, for the message
  /// @throws TensorError naming the dtype or the range
  virtual void check_times(const Tensor& t, const char* where) const = 0;

  /// True if the times are the whole numbers 0 to T - 1.
  virtual bool has_discrete_times() const = 0;
  /// Returns the reason, for error messages, why the model's timesteps are log(sigma) / 4, which can be
  /// fractional and negative. Empty: they are not. The default is empty.
  virtual std::string_view log_sigma_reason() const;
  /// Returns the input `[B]` of a learned log variance of continuous times, of the order of 1.
  virtual Tensor log_variance_time(const Tensor& t) const = 0;

  /// Returns the scheduler that samples from the trained model.
  virtual const Scheduler& scheduler() const = 0;
  /// Returns the prediction type of the model.
  virtual PredictionType prediction_type() const = 0;
  /// Returns the factors by training timestep, on the CPU. None: the process has no table of timesteps.
  virtual std::optional<Shares> shares() const;
};

/// Creates the process of a scheduler.
/// @param scheduler any scheduler with a training objective
/// @param options weights of the timesteps
/// @throws ConfigError naming an option that is out of range, has no effect, or is not supported
std::shared_ptr<const ForwardProcess> make_forward_process(const Scheduler& scheduler,
                                                           const DiffusionLossOptions& options);

/// Checks that the model input and the timesteps of sampling with a scheduler can be reproduced in training.
/// @throws ConfigError naming the class and the reason if they cannot
void require_trainable(const Scheduler& scheduler);

/// Checks timesteps. Values are read on the CPU only.
/// @param num_train_timesteps T
/// @param is_continuous true for [0, T] of any dtype; false for whole numbers in [0, T)
/// @param where name of the called function, for the message
/// @throws TensorError naming the dtype or the range
void check_timesteps(const Tensor& timesteps, int64_t num_train_timesteps, bool is_continuous,
                     const char* where);

}  // namespace internal
}  // namespace diffusers
