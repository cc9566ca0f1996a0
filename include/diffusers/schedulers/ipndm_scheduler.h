#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `IPNDMScheduler`.
struct IPNDMSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  std::vector<double> trained_betas = {};
};

/// Improved pseudo numerical methods (Crowson's v-diffusion-pytorch; Liu et al. 2022, arXiv 2202.09778): the
/// linear multistep method of order 4 for models that predict v over t in [0, 1].
class IPNDMScheduler : public SigmaScheduler<IPNDMScheduler, IPNDMSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "IPNDMScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit IPNDMScheduler(IPNDMSchedulerConfig config = {});

  static constexpr std::string_view kPredictionTypeName = "v_prediction";

  Tensor betas() const override;
  Tensor sigmas() const override { return Scheduler::sigmas(); }

  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  std::vector<float> betas_;  // sin^2 of the angle; with alphas_ on the unit circle
  std::vector<float> alphas_;
  std::vector<Tensor> ets_;  // the last four, oldest first
};

}  // namespace diffusers
