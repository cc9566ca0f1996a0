#pragma once

// How a training noises its samples: so that the model gets the input that sampling gives it at the same
// timestep.

#include <memory>
#include <optional>

#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// The process sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps of a scheduler class of this library that has betas,
/// for objectives. For the schedulers in the coordinates x_0 + sigma eps (Euler, LMS, Heun, ...) it is their
/// scaled input, `scale_model_input(add_noise(x_0, eps, t), t)`.
/// @return a schedule that shares the scheduler's tables; nullopt where the scheduler's own `add_noise` and
/// `get_velocity` serve, as for classes of the user's, and where `use_flow_sigmas` replaces the betas
std::optional<NoiseSchedule> variance_preserving_schedule(const Scheduler& scheduler);

/// The forward process of a training. Depends on the scheduler's config alone: `set_timesteps`, a begin index
/// and steps of the scheduler do not change it. Its tables are copied to a device once.
class ForwardProcess {
 public:
  /// @throws ConfigError naming the class and the reason, if the scheduler's model input or timesteps in
  /// sampling cannot be reproduced in training
  explicit ForwardProcess(const Scheduler& scheduler);

  bool is_flow() const { return flow_timesteps_.defined(); }
  /// The training timesteps of flow matching, sigma T, from T down, float32 `[T]` on the CPU; undefined for
  /// other processes.
  const Tensor& flow_timesteps() const { return flow_timesteps_; }
  /// `shift` of the flow's sigmas; 1 for other processes and with dynamic shifting.
  double flow_shift() const { return flow_shift_; }
  /// True if the model's timesteps are log(sigma) / 4 instead of training timesteps.
  bool has_continuous_timesteps() const { return continuous_timesteps_.defined(); }

  /// The model's input.
  /// @param x0, noise `[B, ...]`, floating
  /// @param timesteps `[B]`, int64 training timesteps; for flow matching sigma T, floating
  Tensor add_noise(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  /// The model's timesteps, `[B]`: those given, or log(sigma) / 4 as float32.
  Tensor model_timesteps(const Tensor& timesteps) const;
  /// sqrt(abar_t) and sqrt(1 - abar_t), or 1 - sigma and sigma, by training timestep; on the CPU.
  struct Shares {
    Tensor signal, noise;
  };
  Shares shares() const;

 private:
  void use_flow(const Scheduler& scheduler);

  std::shared_ptr<const Scheduler> scheduler_;  // noises, if the class is none of this library
  std::optional<NoiseSchedule> schedule_;
  Tensor flow_timesteps_;
  double flow_shift_ = 1.0;
  double num_train_timesteps_ = 1.0;
  Tensor continuous_timesteps_;  // float32 [T] on the CPU; undefined: training timesteps
  mutable Tensor on_device_;     // their copy where the last batch was
};

}  // namespace diffusers
