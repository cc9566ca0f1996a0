#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/learned_log_variance.h>
#include <diffusers/training/objective.h>
#include <diffusers/training/pyramid_noise.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>
#include <diffusers/training/timestep_sampler.h>
#include <diffusers/training/trainable_denoiser.h>

namespace diffusers {

class ForwardProcess;
class LabelChecks;

/// Trains a denoiser: images -> noise and a timestep for each sample -> `add_noise` -> model -> objective.
class DiffusionTask : public Task {
 public:
  /// What the noise and the timesteps of a batch came out as.
  struct Draw {
    Tensor noise;        ///< what the target is made of, shape of x_0
    Tensor input_noise;  ///< what is added to x_0: the noise, perturbed if `input_perturbation` asks for it
    /// `[B]`: int64 training timesteps; for flow matching those of the scheduler, sigma times T, floating.
    Tensor timesteps;
    Tensor weights = {};           ///< `[B]` of importance sampling; undefined: all 1
    Tensor is_unconditional = {};  ///< `[B]` bool, whose label is dropped; undefined: nobody's
  };

  /// The model gets the input that sampling with the scheduler gives it at the same timestep: for the
  /// schedulers that scale it (Euler, LMS, Heun, KDPM2, DPMSolverSDE, ...) the scaled one. Only the
  /// scheduler's config matters; `set_timesteps` changes nothing.
  /// @param name the folder of the model in output_dir
  /// @throws ConfigError naming the scheduler's class and the reason, if it cannot be trained with
  DiffusionTask(TrainableDenoiser model, const Scheduler& scheduler, std::string name = "unet");

  const std::vector<NamedModule>& trained() const override { return trained_; }
  void configure(const TrainingConfig& config) override;
  void check_dataset(const Dataset& dataset) override;
  void check_batch(const Batch& batch) override;
  void begin_step(const StepContext& context) override;
  StepLoss loss(const Batch& batch, std::size_t update) override;
  Tensor validation_loss(const Batch& batch, const Tensor& positions, const Generator& generator) override;
  TensorMap state() const override;
  void load_state(const TensorMap& state) override;
  void save_extras(const std::filesystem::path& output_dir) const override;
  /// The config of the scheduler.
  std::string config_json() const override;

 protected:
  /// x_0 of a batch.
  virtual Tensor encode(const Batch& batch);
  virtual Conditioning conditioning(const Batch& batch);
  /// Noise, noise offset, input perturbation and timesteps, drawn in the order of train_text_to_image.py.
  virtual Draw draw(const Tensor& x0);

 private:
  bool is_flow() const { return objective_->prediction_type() == PredictionType::kFlowPrediction; }
  void configure_timesteps(const TrainingConfig& config);
  void configure_log_variance(const TrainingConfig& config);
  Tensor log_variance(const Tensor& timesteps) const;
  void configure_labels(const TrainingConfig& config);
  Draw draw_samples(at::IntArrayRef shape, const at::TensorOptions& options);
  Tensor flow_timesteps_at(const Tensor& drawn);

  TrainableDenoiser model_;
  std::vector<NamedModule> trained_;
  std::shared_ptr<const Scheduler> scheduler_;
  std::shared_ptr<const ForwardProcess> process_;
  std::optional<DiffusionObjective> objective_;
  std::optional<TimestepSampler> sampler_;
  LearnedLogVariance log_variance_{nullptr};  // empty: none
  bool takes_fractions_ = false;              // of T instead of timesteps
  Tensor flow_timesteps_;                     // of flow matching: where the last draw was
  std::optional<int64_t> resolution_;
  std::optional<bool> class_conditional_;
  int64_t cpu_data_parallel_ = 1;
  double class_dropout_prob_ = 0.0;
  int64_t null_label_ = 0;  // what a dropped label becomes
  std::shared_ptr<LabelChecks> label_checks_;
  PyramidNoiseOptions pyramid_noise_;
  double noise_offset_ = 0.0;
  double input_perturbation_ = 0.0;

  StepContext context_;
  Draw step_draw_;  // of all samples of the step
  StepRows rows_;   // of it
};

}  // namespace diffusers
