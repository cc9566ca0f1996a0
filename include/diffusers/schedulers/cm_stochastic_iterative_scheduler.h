#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `CMStochasticIterativeScheduler`.
struct CMStochasticIterativeSchedulerConfig {
  int64_t num_train_timesteps = 40;
  double sigma_min = 0.002;
  double sigma_max = 80.0;
  double sigma_data = 0.5;
  double s_noise = 1.0;
  double rho = 7.0;
  bool clip_denoised = true;
};

/// Multistep sampling from consistency models (Song et al. 2023, arXiv 2303.01469, algorithm 1) with the
/// parametrization of its appendix C. Timesteps are 250 log(sigma). `step` gives the clean sample as
/// `denoised` too.
class CMStochasticIterativeScheduler
    : public SigmaScheduler<CMStochasticIterativeScheduler, CMStochasticIterativeSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "CMStochasticIterativeScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit CMStochasticIterativeScheduler(CMStochasticIterativeSchedulerConfig config = {});

  static constexpr std::string_view kPredictionTypeName = "sample";

  double init_noise_sigma() const override { return config_.sigma_max; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// Takes num_inference_steps, or `.timesteps`: positions on the training schedule, descending.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::scale_model_input;
  /// x / sqrt(sigma^2 + sigma_data^2)
  Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const override;
  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  SigmaRun run_at(const std::vector<double>& positions, bool closed, at::Device device) const;
};

}  // namespace diffusers
