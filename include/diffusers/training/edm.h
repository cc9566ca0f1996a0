#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/learned_log_variance.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>
#include <diffusers/training/trainable_denoiser.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

class LabelChecks;

/// EDM's training (Karras et al. 2022, arXiv 2206.00364, table 1), with its defaults.
struct EDMConfig {
  double sigma_data = 0.5;  ///< the standard deviation of the data
  double p_mean = -1.2;     ///< log(sigma) is drawn from N(p_mean, p_std^2)
  double p_std = 1.2;
  double sigma_min = 0.002;  ///< these two: of the scheduler that is saved for sampling
  double sigma_max = 80.0;
  /// `fourier` learns how large the loss of a noise level is, and divides by it (EDM2, arXiv 2312.02696).
  EnumChoice<LogVarianceType> log_variance = LogVarianceType::kNone;
};

/// The denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) around a model F (eq. 7), whose input and
/// target have unit variance at every noise level; the formulas of diffusers' EDMEulerScheduler with
/// prediction_type "epsilon". Noise levels are floating tensors, positive; coefficients have their shape.
class EDMPreconditioner {
 public:
  /// @throws ConfigError unless sigma_data is a positive number
  explicit EDMPreconditioner(double sigma_data = 0.5);

  double sigma_data() const { return sigma_data_; }
  Tensor c_skip(const Tensor& sigma) const;   ///< d^2 / (sigma^2 + d^2), d = sigma_data
  Tensor c_out(const Tensor& sigma) const;    ///< sigma d / sqrt(sigma^2 + d^2)
  Tensor c_in(const Tensor& sigma) const;     ///< 1 / sqrt(sigma^2 + d^2)
  Tensor c_noise(const Tensor& sigma) const;  ///< log(sigma) / 4, the model's timestep
  /// lambda = (sigma^2 + d^2) / (sigma d)^2 = 1 / c_out^2, the weight of an error of D.
  Tensor loss_weight(const Tensor& sigma) const;

  /// c_in x
  /// @param sample x `[B, ...]`; sigma 0-dim or `[B]`, here and below
  Tensor precondition_inputs(const Tensor& sample, const Tensor& sigma) const;
  /// c_skip x + c_out F
  Tensor precondition_outputs(const Tensor& sample, const Tensor& model_output, const Tensor& sigma) const;
  /// What F is to predict of x = x_0 + sigma n, (x_0 - c_skip x) / c_out, as the sum without cancellation
  /// (sigma / d x_0 - d n) / sqrt(sigma^2 + d^2). The squared error of F is lambda times that of D.
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& sigma) const;

  /// D(x; sigma).
  /// @param noisy x `[B, C, H, W]`, floating
  /// @return shape and dtype of `noisy`
  /// @throws TensorError if the model's output has another shape, or sigma one that does not fit
  Tensor denoise(const Denoiser& model, const Tensor& noisy, const Tensor& sigma,
                 const Conditioning& conditioning = {}) const;

 private:
  double sigma_data_;
};

/// Trains F of an `EDMPreconditioner`: draws log(sigma) ~ N(p_mean, p_std^2) and noise n for each sample; its
/// loss is the mean over the elements of lambda(sigma) |D(x_0 + sigma n; sigma) - x_0|^2, and with a learned
/// log variance u that divided by exp(u), plus u.
///
/// The model is given c_noise for its timesteps, between about -1.6 and 1.1: it embeds them by sinusoids
/// (`time_embedding_type` "positional"). What was trained samples with EDMEulerScheduler and
/// EDMDPMSolverMultistepScheduler, in Python as well; `scheduler/` is written for that.
class EDMTask : public Task {
 public:
  /// What was drawn for a batch.
  struct Draw {
    Tensor sigma;                  ///< `[B]`, of the images' dtype
    Tensor noise;                  ///< n, shape of x_0, standard normal
    Tensor is_unconditional = {};  ///< `[B]` bool, whose label is dropped; undefined: nobody's
  };

  /// @param name the folder of the model in output_dir. A learned log variance is another model,
  /// "log_variance", made here where the model lies
  /// @throws ConfigError naming the field and its value
  explicit EDMTask(TrainableDenoiser model, const EDMConfig& config = {}, std::string name = "unet");

  const std::vector<NamedModule>& trained() const override { return trained_; }
  /// @throws ConfigError for a flag that EDM has no place for: those of discrete timesteps, of other losses
  /// and other noise; also for a model whose time embedding does not take c_noise
  void configure(const TrainingConfig& config) override;
  void check_dataset(const Dataset& dataset) override;
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  StepLoss loss(const Batch& batch, std::size_t update) override;
  /// At sigma = exp(p_mean + p_std Phi^-1(position)), as often as a training draws less: a position is a
  /// quantile, taken from 1e-6 to 1 - 1e-6. Without the learned log variance, so that trainings compare.
  Tensor validation_loss(const Batch& batch, const Tensor& positions, const Generator& generator) override;
  /// Writes `scheduler/`.
  void save_extras(const std::filesystem::path& output_dir) const override;
  /// The fields of EDMConfig that the loss depends on.
  std::string config_json() const override;

  const EDMConfig& config() const { return config_; }
  const EDMPreconditioner& preconditioner() const { return preconditioner_; }
  /// What the trained model samples with.
  EDMEulerScheduler scheduler() const;

 protected:
  /// x_0 of a batch.
  virtual Tensor encode(const Batch& batch);
  virtual Conditioning conditioning(const Batch& batch);
  /// Noise levels, noise, dropped labels, in this order, for all batches of a step at once.
  virtual Draw draw(const Tensor& x0);

 private:
  Draw draw_samples(at::IntArrayRef shape, const at::TensorOptions& options);
  /// lambda |D - x_0|^2 of each sample.
  Tensor losses(const Tensor& x0, const Draw& drawn, const Conditioning& conditioning, int64_t parts);

  EDMConfig config_;
  EDMPreconditioner preconditioner_;
  TrainableDenoiser model_;
  std::vector<NamedModule> trained_;
  LearnedLogVariance log_variance_{nullptr};  // empty: none
  bool is_configured_ = false;
  std::optional<int64_t> resolution_;
  std::optional<bool> class_conditional_;
  int64_t cpu_data_parallel_ = 1;
  double class_dropout_prob_ = 0.0;
  int64_t null_label_ = 0;  // what a dropped label becomes
  std::shared_ptr<LabelChecks> label_checks_;

  StepContext context_;
  Draw step_draw_;  // of all samples of the step
  StepRows rows_;   // of it
};

}  // namespace diffusers
