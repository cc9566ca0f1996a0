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
  /// Beta schedule: "linear", "scaled_linear" (linear in sqrt(beta)), "squaredcos_cap_v2" (cosine), "sigmoid"
  /// or "laplace".
  EnumChoice<BetaSchedule> beta_schedule = BetaSchedule::kLinear;
  /// Explicit betas, at least T numbers from 0 to 1. Empty: `beta_start`, `beta_end` and `beta_schedule`
  /// define the betas.
  std::vector<double> trained_betas = {};
  /// Order of the solver, 1 to 16. Use 2 for guided sampling, 3 for unconditional sampling.
  int64_t solver_order = 2;
  /// Prediction of the model: "epsilon", "sample", "v_prediction" or "flow_prediction".
  EnumChoice<PredictionType> prediction_type = PredictionType::kEpsilon;
  /// Dynamic thresholding of the predicted x_0 (Saharia et al. 2022, section 2.3). For pixel models, not for
  /// latents.
  bool thresholding = false;
  /// Quantile of the magnitudes to which `thresholding` clips, 0 to 1.
  double dynamic_thresholding_ratio = 0.995;
  /// Largest threshold of `thresholding`, above 0.
  double sample_max_value = 1.0;
  /// Integrates x_0 if true, epsilon if false.
  bool predict_x0 = true;
  /// Form of B(h): "bh2", or "bh1", which is better for unconditional sampling in fewer than 10 steps (Zhao
  /// et al. 2023, section 3).
  EnumChoice<SolverType> solver_type = SolverType::kBh2;
  /// Lowers the order in the last steps, which stabilises short runs.
  bool lower_order_final = true;
  /// Positions of the steps (from 0) without the corrector. Empty: every step uses it.
  std::vector<int64_t> disable_corrector = {};
  /// Scheduler that replaces the predictor. It is copied. Null: UniP. A config with a scheduler cannot be
  /// saved.
  std::shared_ptr<Scheduler> solver_p = nullptr;
  /// Spaces the sigmas as Karras et al. 2022, eq. 5, with rho = 7. At most one of the use_..._sigmas may be
  /// set.
  bool use_karras_sigmas = false;
  /// Spaces the sigmas evenly in log(sigma).
  bool use_exponential_sigmas = false;
  /// Spaces the sigmas by quantiles of a beta distribution (Lee et al. 2024, arXiv 2407.12173).
  bool use_beta_sigmas = false;
  /// Uses the sigmas of flow matching instead of those of the betas.
  bool use_flow_sigmas = false;
  /// Shift s of the flow sigmas: s sigma / (1 + (s - 1) sigma), above 0. Read with `use_flow_sigmas` only; 1
  /// means no shift.
  double flow_shift = 1.0;
  /// Spacing of the steps over the training timesteps: "linspace", "leading" or "trailing" (Lin et al. 2023,
  /// table 2).
  EnumChoice<TimestepSpacing> timestep_spacing = TimestepSpacing::kLinspace;
  /// Added to every timestep of "leading" spacing. Stable Diffusion uses 1.
  int64_t steps_offset = 0;
  /// Last sigma of a run: "zero", or "sigma_min" for that of the first training timestep.
  EnumChoice<FinalSigmasType> final_sigmas_type = FinalSigmasType::kZero;
  /// Rescales the betas so that the last training timestep holds no signal (Lin et al. 2023, algorithm 1).
  bool rescale_betas_zero_snr = false;
  /// Shifts the flow sigmas by `SetTimestepsOptions::mu`, which depends on the image size, instead of
  /// `flow_shift`.
  bool use_dynamic_shifting = false;
  /// How `mu` shifts the sigmas: "exponential" or "linear".
  EnumChoice<TimeShiftType> time_shift_type = TimeShiftType::kExponential;
  /// Smallest sigma of the spacing, above 0. None: the smallest sigma of the run.
  std::optional<double> sigma_min = std::nullopt;
  /// Largest sigma of the spacing. None: the largest sigma of the run.
  std::optional<double> sigma_max = std::nullopt;
  /// Last sigma before the end of the run, below 1. The shifted sigmas are stretched to it. None: no
  /// stretching.
  std::optional<double> shift_terminal = std::nullopt;
};

/// UniPC (Zhao et al. 2023, arXiv 2302.04867): a multistep predictor, and a corrector that improves the
/// previous step with the current model output, without an extra evaluation.
///
/// There are two differences from Python. `add_noise` uses the noise level of each training timestep, while
/// Python's class uses wrong levels before `set_timesteps`. If the last sigma is 0, every form of the solver
/// returns the predicted x_0; Python returns NaN for bh1 and for predict_x0 = false.
class UniPCMultistepScheduler
    : public SigmaScheduler<UniPCMultistepScheduler, UniPCMultistepSchedulerConfig> {
 public:
  /// Python's class name.
  static constexpr std::string_view kClassName = "UniPCMultistepScheduler";

  /// Makes a scheduler from a config.
  /// @param config the arguments of Python's constructor
  /// @throws ConfigError naming the field and its value if a value is invalid
  explicit UniPCMultistepScheduler(UniPCMultistepSchedulerConfig config = {});

  ForwardProcessType forward_process() const override { return ForwardProcessType::kVariancePreserving; }
  const NoiseSchedule* noise_schedule() const override { return &schedule_; }

  Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                   const Tensor& timesteps) const override;
  using Scheduler::set_timesteps;
  /// Chooses the timesteps of a run.
  /// @param num_inference_steps number of steps; nullopt with `.sigmas`
  /// @param options device, sigmas if `use_flow_sigmas` is set, and mu if `use_dynamic_shifting` is set
  /// @throws ConfigError if a number is out of range or an option is not supported
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
