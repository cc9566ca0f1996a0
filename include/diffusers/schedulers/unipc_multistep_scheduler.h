#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <diffusers/schedulers/sigma_scheduler.h>

namespace diffusers {

/// The arguments of Python's `UniPCMultistepScheduler` (schedulers/scheduling_unipc_multistep.py), in its
/// order and with its defaults. Fields of a closed set take an enumerator or Python's string.
struct UniPCMultistepSchedulerConfig {
  /// Number of training timesteps T, 1 to 10^7.
  int64_t num_train_timesteps = 1000;
  /// beta of the first training timestep, 0 to 1.
  double beta_start = 0.0001;
  /// beta of the last training timestep, 0 to 1.
  double beta_end = 0.02;
  /// Course of the betas: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine),
  /// "sigmoid" or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Betas in place of a schedule, at least T numbers from 0 to 1. Empty: beta_start, beta_end and
  /// beta_schedule give them.
  std::vector<double> trained_betas = {};
  /// Order of the solver, 1 or more. Use 2 for guided sampling, 3 for unconditional sampling.
  int64_t solver_order = 2;
  /// Prediction of the model: "epsilon", "sample", "v_prediction" or "flow_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). Not for latents.
  bool thresholding = false;
  /// Quantile of the magnitudes to which `thresholding` clips, 0 to 1.
  double dynamic_thresholding_ratio = 0.995;
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Integrates x_0 if true, epsilon if false.
  bool predict_x0 = true;
  /// Form of B(h): "bh2", or "bh1" for unconditional sampling in fewer than 10 steps (Zhao et al. 2023,
  /// section 3).
  EnumChoice<SolverType> solver_type = SolverType::kBh2;
  /// Lowers the order in the last steps, which stabilises short runs.
  bool lower_order_final = true;
  /// Steps, from 0, at which the corrector is off. Empty: it is on at every step.
  std::vector<int64_t> disable_corrector = {};
  /// Scheduler that replaces the predictor. It is copied. Null: UniP. Files cannot hold it.
  std::shared_ptr<Scheduler> solver_p = nullptr;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Takes the sigmas of flow matching in place of those of the betas.
  bool use_flow_sigmas = false;
  /// Shift s of the flow sigmas: s sigma / (1 + (s - 1) sigma), above 0. Read with `use_flow_sigmas` only; 1
  /// shifts nothing.
  double flow_shift = 1.0;
  /// How the steps are spread over the training timesteps: "linspace", "leading" or "trailing" (Lin et al.
  /// 2023, table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
  /// Shifts the flow sigmas by `SetTimestepsOptions::mu`, which depends on the image size, in place of a
  /// constant.
  bool use_dynamic_shifting = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
  /// Smallest sigma of the spacing, above 0. None: that of the run.
  std::optional<double> sigma_min = std::nullopt;
  /// Largest sigma of the spacing. None: that of the run.
  std::optional<double> sigma_max = std::nullopt;
  /// Last sigma before the end to which the shifted sigmas are stretched, below 1. None stretches nothing.
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
  /// Python's class name.
  static constexpr std::string_view kClassName = "UniPCMultistepScheduler";

  /// @param config the fields of Python's constructor
  /// @throws ConfigError naming the field that cannot work
  explicit UniPCMultistepScheduler(UniPCMultistepSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
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

extern template class ConfiguredScheduler<UniPCMultistepScheduler, UniPCMultistepSchedulerConfig>;

}  // namespace diffusers
