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
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Share of DDPM's noise in a step: 0 is DDIM, 1 is DDPM.
  double eta = 0.0;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Clips the predicted x_0 to [-1, 1].
  bool clip_sample = true;
};

/// RePaint (Lugmayr et al. 2022, arXiv 2201.09865): inpainting with an unconditional model. Each step adds
/// noise to the known part of the image and denoises the rest. The run jumps back several times (`undo_step`)
/// to harmonize both parts.
class RePaintScheduler : public ConfiguredScheduler<RePaintScheduler, RePaintSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "RePaintScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit RePaintScheduler(RePaintSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kEpsilon; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kInpainting; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }
  Tensor final_alpha_cumprod() const override;
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run with `jump_length` 10 and `jump_n_sample` 10.
  /// @param num_inference_steps number of steps without jumps, 1 to T
  /// @param options device
  /// @throws ConfigError if a number is out of range or an option is not supported
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  /// Chooses the timesteps with the jumps of the paper (Lugmayr et al. 2022, section 4.2).
  /// @param num_inference_steps number of steps without jumps, 1 to T
  /// @param jump_length number of timesteps that a jump goes back
  /// @param jump_n_sample number of times that each stretch is denoised
  /// @param device device of `timesteps()`
  /// @throws ConfigError if a number is out of range
  void set_timesteps(int64_t num_inference_steps, int64_t jump_length, int64_t jump_n_sample,
                     at::Device device = at::kCPU);

  using Scheduler::step;
  /// Throws Error, because a step needs the image and the mask.
  /// @throws Error always
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// Denoises the unknown part of the sample and adds noise to the known part of the image.
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
  /// Computes x_{t + T / n} from x_t by the forward process, one training timestep after another.
  /// @param sample x_t
  /// @param timestep one of `timesteps()`
  /// @param generator generator of the noise; nullopt uses the global generator of the device
  /// @return the sample, shape of x_t
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
