#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/configured_scheduler.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/timestep_schedule.h>

namespace diffusers {

/// The arguments of Python's `RePaintScheduler`.
struct RePaintSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  double eta = 0.0;
  std::vector<double> trained_betas = {};
  bool clip_sample = true;
};

/// RePaint (Lugmayr et al. 2022, arXiv 2201.09865): inpainting with an unconditional model. Each step noises
/// the known part of the image and denoises the rest; now and then the run jumps back (`undo_step`) to
/// harmonize both.
class RePaintScheduler : public ConfiguredScheduler<RePaintScheduler, RePaintSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "RePaintScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit RePaintScheduler(RePaintSchedulerConfig config = {});

  static constexpr std::string_view kPredictionTypeName = "epsilon";

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }
  Tensor final_alpha_cumprod() const override;
  Timesteps timesteps() const override { return timesteps_.tensor(); }

  /// With jumps of 10 timesteps, 10 times each.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;
  /// @param jump_length how far a jump goes back
  /// @param jump_n_sample how often each stretch is denoised
  void set_timesteps(int64_t num_inference_steps, int64_t jump_length, int64_t jump_n_sample,
                     at::Device device = at::kCPU);

  /// Throws: the step needs the image and the mask.
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;
  /// @param original_image the known image
  /// @param mask 1 where the image is known, broadcasts to the sample
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const Tensor& original_image, const Tensor& mask, const StepOptions& options = {});
  /// x_{t + T / n} from x_t: the forward process, one training timestep after the other.
  Tensor undo_step(const Tensor& sample, const Tensor& timestep,
                   const std::optional<Generator>& generator = std::nullopt) const;

 private:
  NoiseSchedule schedule_;
  TimestepSchedule timesteps_;
  int64_t num_inference_steps_ = 0;
};

}  // namespace diffusers
