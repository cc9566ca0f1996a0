#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// tau(t) of SASolverScheduler; empty for the default.
struct TauFunction : std::function<double(double)> {
  using std::function<double(double)>::function;
};

/// The arguments of Python's `SASolverScheduler`.
struct SASolverSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  int64_t predictor_order = 2;
  int64_t corrector_order = 2;
  PredictionType prediction_type = PredictionType::kEpsilon;
  TauFunction tau_func = {};
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  AlgorithmType algorithm_type = AlgorithmType::kDataPrediction;
  bool lower_order_final = true;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool use_flow_sigmas = false;
  double flow_shift = 1.0;
  double lambda_min_clipped = -std::numeric_limits<double>::infinity();
  std::optional<VarianceType> variance_type = std::nullopt;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
};

/// SA-Solver (Xue et al. 2023, arXiv 2305.05303): stochastic Adams methods, a predictor (Adams-Bashforth) and
/// a corrector (Adams-Moulton) of order up to 4. `tau_func` gives the strength of the noise at a timestep: 0
/// solves the ODE, 1 the SDE; by default 1 from timestep 200 to 800 and 0 elsewhere. It cannot be saved.
class SASolverScheduler : public SigmaScheduler<SASolverScheduler, SASolverSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "SASolverScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit SASolverScheduler(SASolverSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  double tau(double timestep) const;
  Tensor update(const std::vector<Tensor>& outputs, const Tensor& sample, const Tensor& noise, int64_t from,
                int64_t newest, int64_t order, bool corrector, double tau) const;

  NoiseSchedule schedule_;
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  Tensor last_sample_;
  Tensor last_noise_;
  double last_timestep_ = 0;
  int64_t corrector_order_ = 0;
  bool timesteps_set_ = false;
};

}  // namespace diffusers
