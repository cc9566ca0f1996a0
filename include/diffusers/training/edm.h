#pragma once

#include <memory>
#include <optional>
#include <string>

#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/diffusion_task.h>
#include <diffusers/training/edm_preconditioner.h>

namespace diffusers {

/// Options of an EDMTask. The defaults are those of Karras et al. 2022 (arXiv 2206.00364, table 1).
struct EDMConfig {
  double sigma_data = 0.5;   ///< standard deviation of the data, above 0
  double p_mean = -1.2;      ///< mean of log(sigma), which has a normal distribution
  double p_std = 1.2;        ///< standard deviation of log(sigma), above 0
  double sigma_min = 0.002;  ///< smallest noise level of the saved scheduler; no effect on the loss
  double sigma_max = 80.0;   ///< largest noise level of the saved scheduler; no effect on the loss
  /// `fourier` learns the log variance u of the loss at each noise level: the loss becomes loss / exp(u) + u
  /// (EDM2, arXiv 2312.02696). `table` is refused, since the noise levels are continuous.
  EnumChoice<LogVarianceType> log_variance = LogVarianceType::kNone;
  /// Passes the class labels of the dataset to the model; see DiffusionTaskOptions.
  std::optional<bool> class_conditional = std::nullopt;
  /// Probability that a label is replaced by the model's last class, in [0, 1); see DiffusionTaskOptions.
  double class_dropout_prob = 0.0;
  /// Computes the conditioning of a batch. Empty: the conditioning is the class labels.
  ConditioningFunction conditioning = {};
};

/// The task of training the model F of an EDMPreconditioner (Karras et al. 2022). For each sample it draws
/// log(sigma) ~ N(p_mean, p_std^2), then noise n. The loss of a sample is the mean over its elements of
/// lambda(sigma) (D(x_0 + sigma n; sigma) - x_0)^2.
///
/// The model receives c_noise as timesteps, between about -1.6 and 1.1. It must therefore embed timesteps by
/// sinusoids (`time_embedding_type` "positional"). EDMEulerScheduler and EDMDPMSolverMultistepScheduler
/// sample from it. Python opens the folder that the Trainer writes with
/// `ConsistencyModelPipeline.from_pretrained(folder)`, whose loop works with any scheduler. Call the pipeline
/// with `num_inference_steps=50`.
class EDMTask : public DiffusionTask {
 public:
  /// Creates a task.
  /// @param model shared, not copied
  /// @param config options of the task
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the field and its value
  explicit EDMTask(TrainableDenoiser model, const EDMConfig& config = {}, std::string name = "unet");

  /// Reads the options of the training.
  /// @param config options of the training
  /// @throws ConfigError for an option of discrete timesteps, other losses or other noise, which EDM does not
  ///         use, and for a model whose time embedding does not support c_noise
  void configure(const TrainingConfig& config) override;
  /// @return JSON of the fields of EDMConfig that the loss depends on
  std::string config_json() const override;

  /// @return the options as given
  const EDMConfig& config() const { return config_; }
  /// @return the preconditioner of the model
  const EDMPreconditioner& preconditioner() const { return preconditioner_; }
  /// @return a scheduler that samples from the trained model
  EDMEulerScheduler scheduler() const;

 private:
  EDMConfig config_;
  EDMPreconditioner preconditioner_;
};

}  // namespace diffusers
