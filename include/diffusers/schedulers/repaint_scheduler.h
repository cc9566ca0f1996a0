#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `RePaintScheduler` (schedulers/scheduling_repaint.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct RePaintSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Course of the betas: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine),
  /// "sigmoid" or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Share of DDPM's noise in a step: 0 is DDIM, 1 is DDPM.
  double eta = 0.0;
  /// Betas in place of a schedule, at least T numbers from 0 to 1. Empty: beta_start, beta_end and
  /// beta_schedule give them.
  std::vector<double> trained_betas = {};
  /// Clips the predicted x_0 to [-1, 1].
  bool clip_sample = true;
};

/// RePaint (Lugmayr et al. 2022, arXiv 2201.09865): inpainting with an unconditional model. Each step noises
/// the known part of the image and denoises the rest; now and then the run jumps back (`undo_step`) to
/// harmonize both.
class RePaintScheduler : public ConfiguredScheduler<RePaintScheduler, RePaintSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "RePaintScheduler";

  /// @param config the fields of Python's constructor
  /// @throws ConfigError naming the field that cannot work
  explicit RePaintScheduler(RePaintSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kEpsilon; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kInpainting; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Tensor final_alpha_cumprod() const override;
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  using Scheduler::set_timesteps;
  /// With jumps of 10 timesteps, 10 times each.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  /// Chooses the timesteps with the jumps of the paper (Lugmayr et al. 2022, section 4.2).
  /// @param num_inference_steps steps without jumps, 1 to T
  /// @param jump_length timesteps that a jump goes back
  /// @param jump_n_sample times that each stretch is denoised
  /// @param device device of `timesteps()`
  /// @throws ConfigError on a number out of range
  void set_timesteps(int64_t num_inference_steps, int64_t jump_length, int64_t jump_n_sample,
                     at::Device device = at::kCPU);

  using Scheduler::step;
  /// Throws Error: the step needs the image and the mask.
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Denoises the unknown part of the sample and noises the known part of the image.
  /// @param model_output epsilon, shape of the sample
  /// @param timestep one of `timesteps()`
  /// @param sample x_t
  /// @param original_image the known image, shape of the sample
  /// @param mask 1 where the image is known, broadcasts to the sample
  /// @param options generator
  /// @return prev_sample and pred_original_sample
  /// @throws Error before `set_timesteps`; TensorError on a mismatch
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& original_image, const Tensor& mask, const StepOptions& options = {});
  /// x_{t + T / n} from x_t: the forward process, one training timestep after the other.
  /// @param sample x_t
  /// @param timestep one of `timesteps()`
  /// @param generator generator of the noise; none: the default generator of the device
  /// @throws Error before `set_timesteps`; TensorError on a mismatch
  Tensor undo_step(const Tensor& sample, const Tensor& timestep,
                   const std::optional<Generator>& generator = std::nullopt) const;

 private:
  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  int64_t num_inference_steps_ = 0;
};

extern template class ConfiguredScheduler<RePaintScheduler, RePaintSchedulerConfig>;

}  // namespace diffusers
