#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `UniPCMultistepScheduler`.
struct UniPCMultistepSchedulerConfig {
  int64_t num_train_timesteps = 1000;
  double beta_start = 0.0001;
  double beta_end = 0.02;
  BetaSchedule beta_schedule = BetaSchedule::kLinear;
  std::vector<double> trained_betas = {};
  int64_t solver_order = 2;
  PredictionType prediction_type = PredictionType::kEpsilon;
  bool thresholding = false;
  double dynamic_thresholding_ratio = 0.995;
  double sample_max_value = 1.0;
  bool predict_x0 = true;
  SolverType solver_type = SolverType::kBh2;
  bool lower_order_final = true;
  std::vector<int64_t> disable_corrector = {};
  std::shared_ptr<Scheduler> solver_p = nullptr;
  bool use_karras_sigmas = false;
  bool use_exponential_sigmas = false;
  bool use_beta_sigmas = false;
  bool use_flow_sigmas = false;
  double flow_shift = 1.0;
  TimestepSpacing timestep_spacing = TimestepSpacing::kLinspace;
  int64_t steps_offset = 0;
  FinalSigmasType final_sigmas_type = FinalSigmasType::kZero;
  bool rescale_betas_zero_snr = false;
  bool use_dynamic_shifting = false;
  TimeShiftType time_shift_type = TimeShiftType::kExponential;
  std::optional<double> sigma_min = std::nullopt;
  std::optional<double> sigma_max = std::nullopt;
  std::optional<double> shift_terminal = std::nullopt;
};

/// UniPC (Zhao et al. 2023, arXiv 2302.04867): a multistep predictor of any order and a corrector that uses
/// the next model output to improve the step before, at no extra evaluation.
///
/// `solver_p` replaces the predictor; it is copied and cannot be saved. `add_noise` gives every training
/// timestep its own noise level also before `set_timesteps`, where Python's is wrong. Where the last sigma is
/// 0, every form of the solver ends at its x_0; Python gives NaN for bh1 and predict_x0 = false.
class UniPCMultistepScheduler
    : public SigmaScheduler<UniPCMultistepScheduler, UniPCMultistepSchedulerConfig> {
 public:
  static constexpr std::string_view kClassName = "UniPCMultistepScheduler";

  /// @throws ConfigError naming the field that cannot work
  explicit UniPCMultistepScheduler(UniPCMultistepSchedulerConfig config = {});

  Tensor betas() const override { return schedule_.betas(); }
  Tensor alphas_cumprod() const override { return schedule_.alphas_cumprod(); }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  /// Takes num_inference_steps, or `.sigmas` with use_flow_sigmas; `.mu` with use_dynamic_shifting.
  void set_timesteps(std::optional<int64_t> num_inference_steps,
                     const SetTimestepsOptions& options = {}) override;

  using Scheduler::step;
  SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                       const StepOptions& options = {}) override;

 private:
  /// A scheduler that is copied with its owner.
  class Predictor {
   public:
    Predictor() = default;
    explicit Predictor(const std::shared_ptr<Scheduler>& scheduler)
        : scheduler_(scheduler ? scheduler->clone() : nullptr) {}
    Predictor(const Predictor& other) : scheduler_(other.scheduler_ ? other.scheduler_->clone() : nullptr) {}
    Predictor(Predictor&&) = default;
    Predictor& operator=(Predictor other) {
      std::swap(scheduler_, other.scheduler_);
      return *this;
    }
    ~Predictor() = default;
    Scheduler* get() const { return scheduler_.get(); }

   private:
    std::unique_ptr<Scheduler> scheduler_;
  };

  Tensor predict(const Tensor& sample, int64_t step, int64_t order) const;
  Tensor correct(const Tensor& model_output, const Tensor& last_sample, int64_t step, int64_t order) const;

  NoiseSchedule schedule_;
  Predictor solver_p_;
  std::vector<Tensor> outputs_;  // the last predictions, newest first
  Tensor last_sample_;
  int64_t last_order_ = 0;
  bool timesteps_set_ = false;
};

}  // namespace diffusers
