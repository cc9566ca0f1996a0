#pragma once

// The forward process of a training: how samples are noised, what the model receives and what it is trained
// to predict.

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

/// Maps clean samples, noise and times to the inputs and the target of a denoiser. In training, the model
/// receives the input that sampling with `scheduler()` gives it at the same time.
///
/// A time t is a training timestep (variance preserving), sigma times T (flow matching), or sigma (EDM); a
/// batch has one for each sample. A process depends on the scheduler's config alone: `set_timesteps`, a begin
/// index and steps of the scheduler do not change it. Its tables are copied to a device once.
class ForwardProcess {
 public:
  /// Share of x_0 and of the noise in the noisy sample.
  struct Shares {
    Tensor signal, noise;
  };

  virtual ~ForwardProcess() = default;

  /// Returns x_t.
  /// @param x0 clean samples `[B, ...]`, floating
  /// @param noise standard normal noise, shape of x0
  /// @param t times `[B]`
  virtual Tensor noisy(const Tensor& x0, const Tensor& noise, const Tensor& t) const = 0;
  /// Returns what the model is trained to predict, shape of x0. The arguments are those of `noisy`.
  virtual Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& t) const = 0;
  /// Returns the model's input, shape of x_t. The default is x_t.
  virtual Tensor model_input(const Tensor& x_t, const Tensor& t) const;
  /// Returns the model's timesteps `[B]`. The default is t.
  virtual Tensor model_time(const Tensor& t) const;
  /// Returns the weight of the squared error of the prediction, float64 `[B]`; undefined if all are 1.
  virtual Tensor weight(const Tensor& t) const = 0;
  /// Returns the weight that the variational bound gives this error, float64 `[B]`; undefined unless
  /// `original_elbo_weight` is above 0. The default is undefined.
  virtual Tensor bound_weight(const Tensor& t) const;

  /// Draws the times of some samples.
  /// @param sampler draws training timesteps; a process with noise levels of its own does not use it
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
  /// Checks times that a caller gives. Values are read on the CPU only.
  /// @param where name of the called function, for the message
  /// @throws TensorError naming the dtype or the range
  virtual void check_times(const Tensor& t, const char* where) const = 0;

  /// True if the times are the whole numbers 0 to T - 1.
  virtual bool has_discrete_times() const = 0;
  /// Returns the reason, for messages, why the model's timesteps are log(sigma) / 4, which is fractional and
  /// can be negative; empty if they are not. The default is empty.
  virtual std::string_view log_sigma_reason() const;
  /// Returns the input `[B]` of a learned log variance of continuous times, of the order of 1.
  virtual Tensor log_variance_time(const Tensor& t) const = 0;

  /// The scheduler that samples with the trained model.
  virtual const Scheduler& scheduler() const = 0;
  /// What the model predicts.
  virtual PredictionType prediction_type() const = 0;
  /// Returns the shares by training timestep, on the CPU; none if there is no table of timesteps.
  virtual std::optional<Shares> shares() const;
};

/// Makes the process of a scheduler.
/// @param scheduler any scheduler with a training objective
/// @param options weight the timesteps
/// @throws ConfigError naming an option that is out of range, has no effect, or that the process cannot serve
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
