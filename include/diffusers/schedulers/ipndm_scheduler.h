#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `IPNDMScheduler` (schedulers/scheduling_ipndm.py), in its order and with its
/// defaults. Fields of a closed set take an enumerator or Python's string.
struct IPNDMSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// sin^2 of the angles of a run, one more than its steps. Empty: sin^2(pi t / 2) with t evenly spaced from
  /// 1 down.
  std::vector<double> trained_betas = {};
};

/// Improved pseudo numerical methods (Crowson's v-diffusion-pytorch; Liu et al. 2022, arXiv 2202.09778): the
/// linear multistep method of order 4 for models that predict v over t in [0, 1].
class IPNDMScheduler : public SigmaScheduler<IPNDMScheduler, IPNDMSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "IPNDMScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit IPNDMScheduler(IPNDMSchedulerConfig config = {});

  PredictionType prediction_type() const override { return PredictionType::kVPrediction; }
  ForwardProcessType forward_process() const override { return ForwardProcessType::kUnscheduled; }

  Tensor betas() const override;
  Tensor sigmas() const override { return Scheduler::sigmas(); }

  using Scheduler::set_timesteps;
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

extern template class ConfiguredScheduler<IPNDMScheduler, IPNDMSchedulerConfig>;

}  // namespace diffusers
