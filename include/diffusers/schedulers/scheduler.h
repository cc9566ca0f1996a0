#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

class NoiseSchedule;

/// The timesteps of a scheduler: a 1-D tensor of Python's dtype that also iterates as 0-dim tensors.
class Timesteps : public at::Tensor {
 public:
  /// Iterator over the timesteps, in the order of the run.
  class Iterator {
   public:
    /// Makes an iterator.
    /// @param tensor the timesteps, which must outlive the iterator
    /// @param index the position
    Iterator(const at::Tensor* tensor, int64_t index) : tensor_(tensor), index_(index) {}
    /// Returns the timestep as a 0-dim view.
    at::Tensor operator*() const;
    /// Moves to the next timestep.
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    /// Returns true if the positions differ.
    bool operator!=(const Iterator& other) const { return index_ != other.index_; }
    /// Returns true if the positions are equal.
    bool operator==(const Iterator& other) const { return index_ == other.index_; }

   private:
    const at::Tensor* tensor_;
    int64_t index_;
  };

  /// Makes an undefined tensor, which has no timesteps.
  Timesteps() = default;
  /// Makes timesteps of a tensor.
  /// @param tensor timesteps `[N]`
  Timesteps(at::Tensor tensor) : at::Tensor(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  /// Returns an iterator to the first timestep.
  Iterator begin() const { return {this, 0}; }
  /// Returns the iterator past the last timestep.
  Iterator end() const;
};

/// The optional arguments of the `step` of all schedulers, in the order of the Python calls. A scheduler
/// throws ConfigError for an option that it does not have. Every scheduler accepts `generator`; a
/// deterministic scheduler draws nothing from it.
struct StepOptions {
  /// DDIM, TCD: share of DDPM's noise, 0 (deterministic) to 1. nullopt means the default of the class (DDIM
  /// 0, TCD 0.3).
  std::optional<double> eta = std::nullopt;
  /// DDIM: computes epsilon from the clipped x_0 instead of using the model's epsilon.
  bool use_clipped_model_output = false;
  /// Euler, EDMEuler, FlowMatchHeun: amount of noise added before a step (Karras et al. 2022, algorithm 2). 0
  /// adds no noise.
  double s_churn = 0.0;
  /// Smallest sigma at which `s_churn` acts.
  double s_tmin = 0.0;
  /// Largest sigma at which `s_churn` acts.
  double s_tmax = std::numeric_limits<double>::infinity();
  /// Factor of the noise that is added.
  double s_noise = 1.0;
  /// Generator of the noise. nullopt uses the global generator of the device.
  std::optional<Generator> generator = std::nullopt;
  /// DDIM: noise that is used instead of drawn noise, shape of the model output. Not together with
  /// `generator`.
  Tensor variance_noise = {};
  /// LMS: number of derivatives that a step uses, 1 to 4. nullopt means 4.
  std::optional<int64_t> order = std::nullopt;
};

/// The result of `step`. A field that a scheduler does not compute is undefined.
struct SchedulerOutput {
  Tensor prev_sample = {};           ///< x_{t-1}, shape of the sample.
  Tensor pred_original_sample = {};  ///< The predicted x_0, shape of the sample.
  Tensor denoised = {};              ///< LCM and consistency models: the clean sample of this step.
  Tensor pred_noised_sample = {};    ///< TCD: the sample at s = (1 - eta) t', before noise is added.
};

/// The optional arguments of the `set_timesteps` of all schedulers. A scheduler throws ConfigError for an
/// option that it does not have.
struct SetTimestepsOptions {
  /// Device of `timesteps()`.
  at::Device device = at::kCPU;
  /// LCM, TCD: number of steps of the teacher's schedule. nullopt uses the config's.
  std::optional<int64_t> original_inference_steps = std::nullopt;
  /// Noise levels of the run, descending. Empty: the scheduler computes them.
  std::vector<double> sigmas = {};
  /// Shift of the flow sigmas. Only with `use_dynamic_shifting`.
  std::optional<double> mu = std::nullopt;
  /// Timesteps of the run, descending. Empty: the scheduler computes them.
  std::vector<double> timesteps = {};
  /// LCM, TCD: share of the teacher's schedule that is used, above 0 to 1. nullopt means 1.
  std::optional<double> strength = std::nullopt;
  /// Heun, KDPM2, DPMSolverSDE: number of training timesteps that the run covers. nullopt uses the config's.
  std::optional<int64_t> num_train_timesteps = std::nullopt;
};

/// Options of `from_pretrained`.
struct SchedulerLoadOptions {
  /// Subfolder of the given folder that holds the config. Empty means the given folder.
  std::string subfolder = {};
};

/// The forward process of a scheduler: the noising of a sample for the model.
enum class ForwardProcessType {
  /// `add_noise` computes the model's input. This is the default of classes outside the library. With
  /// "flow_prediction" the input is (1 - sigma) x_0 + sigma eps instead, and `timesteps()` of a new object
  /// are sigma T.
  kOwn,
  kVariancePreserving,  ///< sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps with the tables of `noise_schedule()`.
  kFlowMatching,        ///< (1 - sigma) x_0 + sigma eps; the timesteps are sigma T.
  kPreconditioned,      ///< EDM: c_in (x_0 + sigma eps), noise levels from a log-normal distribution.
  kConsistency,         ///< Consistency models, which are distilled.
  kVarianceExploding,   ///< x_0 + sigma eps for a model that predicts the score.
  kInversion,           ///< The scheduler turns images into noise.
  kInpainting,          ///< The scheduler inpaints with an unconditional DDPM model.
  kUnscheduled,         ///< The scheduler has no noise schedule over training timesteps.
};

/// The common base of all schedulers. A method that Python's class does not have throws Error.
///
/// To add a scheduler, derive from `ConfiguredScheduler`, which implements reading and writing of the config.
/// Override `timesteps`, `set_timesteps` and `step`; for training also `add_noise` and `alphas_cumprod`.
/// `register_scheduler.h` shows an example.
class Scheduler {
 public:
  virtual ~Scheduler() = default;

  /// Returns Python's class name, such as "DDPMScheduler".
  virtual std::string class_name() const = 0;
  /// Returns the config as Python's `scheduler.config`: JSON text with every field, `_class_name`, and the
  /// unknown keys of the config that was loaded.
  /// @throws ConfigError if a field holds a value that a file cannot hold
  virtual std::string config_json() const = 0;
  /// Returns a copy with the same state. Copies share immutable tables.
  virtual std::unique_ptr<Scheduler> clone() const = 0;

  /// Returns beta_t, float32 `[num_train_timesteps]` on the CPU.
  /// @throws Error if the class has none
  virtual Tensor betas() const;
  /// Returns abar_t, float32 `[num_train_timesteps]` on the CPU, bit for bit as Python computes it.
  /// @throws Error if the class has none
  virtual Tensor alphas_cumprod() const;
  /// Returns abar after the last timestep of a run, float32 0-dim: 1 or abar_0.
  /// @throws Error if the class has none
  virtual Tensor final_alpha_cumprod() const;
  /// Returns the noise levels of the run, float32 on the CPU.
  /// @throws Error if the class has none
  virtual Tensor sigmas() const;
  /// Returns the timesteps of the run, in order. Before `set_timesteps` they are those of a new object in
  /// Python.
  virtual Timesteps timesteps() const = 0;
  /// Returns the standard deviation of the sample that a run starts from.
  virtual double init_noise_sigma() const { return 1.0; }
  /// Returns the number of model evaluations per step.
  virtual int64_t order() const { return 1; }
  /// Returns the number of training timesteps T.
  virtual int64_t num_train_timesteps() const = 0;

  /// Returns the quantity that the model predicts.
  /// @throws ConfigError if PredictionType has no such value (ScoreSdeVeScheduler: the score)
  virtual PredictionType prediction_type() const { return PredictionType::kEpsilon; }
  /// Returns Python's string of `prediction_type()`, such as "v_prediction".
  /// @throws ConfigError as `prediction_type()`
  std::string prediction_type_name() const { return std::string(enum_name(prediction_type())); }
  /// Returns the variance of the reverse process. "learned" and "learned_range" double the channels of the
  /// model.
  /// @return nullopt if the config has none
  virtual std::optional<VarianceType> variance_type() const { return std::nullopt; }
  /// Returns the forward process, which training uses.
  virtual ForwardProcessType forward_process() const { return ForwardProcessType::kOwn; }
  /// Returns the tables of the variance-preserving process. The pointer is valid as long as the scheduler.
  /// @return null if the class has none
  virtual const NoiseSchedule* noise_schedule() const { return nullptr; }
  /// Returns the shift s of the sigmas of flow matching: sigma' = s sigma / (1 + (s - 1) sigma). A dynamic
  /// shift is returned as 1.
  /// @return nullopt if the config has none
  virtual std::optional<double> flow_shift() const { return std::nullopt; }
  /// Returns true if the run uses the sigmas of flow matching instead of those of the betas
  /// (`use_flow_sigmas`).
  virtual bool uses_flow_sigmas() const { return false; }
  /// Returns true if the sigmas of flow matching ascend (`invert_sigmas`).
  virtual bool has_inverted_sigmas() const { return false; }
  /// Returns true if the model takes log(sigma) / 4 as its timestep (Euler's `timestep_type` "continuous").
  virtual bool has_continuous_timesteps() const { return false; }
  /// Returns the number that is added to the timesteps of "leading" spacing.
  /// @return nullopt if the config has none
  virtual std::optional<int64_t> steps_offset() const { return std::nullopt; }
  /// Returns true if the predicted x_0 is clipped.
  /// @return nullopt if the config has none
  virtual std::optional<bool> clip_sample() const { return std::nullopt; }
  /// Returns true if `step` accepts `StepOptions::eta`.
  virtual bool takes_eta() const { return false; }
  /// Returns true if the class has `scale_noise`, which replaces `add_noise` in flow matching.
  virtual bool has_scale_noise() const { return false; }

  /// Scales a sample to the model's input at a timestep.
  /// @param sample x_t `[B, ...]`
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @return the model's input, shape of the sample; most classes return the sample
  virtual Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const;
  /// @copydoc scale_model_input(const Tensor&, const Tensor&) const
  Tensor scale_model_input(const Tensor& sample, const at::Scalar& timestep) const;
  /// Adds noise to clean samples.
  /// @param original_samples x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps one for each sample, `[B]`
  /// @return x_t, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch; Error if the class has no add_noise
  virtual Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                           const Tensor& timesteps) const;
  /// Computes the target of v-prediction: v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0.
  /// @param sample x_0 `[B, ...]`, floating
  /// @param noise eps, shape, dtype and device of x_0
  /// @param timesteps one for each sample, `[B]`
  /// @return v, shape and dtype of x_0
  /// @throws TensorError on a shape, dtype or range mismatch; Error if the class has no get_velocity
  virtual Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const;
  /// Adds noise to clean samples by the forward process of flow matching: (1 - sigma) x_0 + sigma eps.
  /// @param sample x_0 `[B, ...]`, floating
  /// @param timestep one for each sample, `[B]`
  /// @param noise eps, shape of x_0
  /// @return x_sigma, shape of x_0
  /// @throws TensorError on a mismatch; Error if the class has no scale_noise
  virtual Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const;

  /// Chooses the timesteps of a run and resets the state of the previous run.
  /// @param num_inference_steps number of steps; nullopt if an option gives the timesteps
  /// @param options device, and the options that the class supports
  /// @throws ConfigError if a number is out of range or an option is not supported
  virtual void set_timesteps(std::optional<int64_t> num_inference_steps,
                             const SetTimestepsOptions& options = {}) = 0;
  /// Calls `set_timesteps` with a device, as in Python: `scheduler.set_timesteps(50, torch::kCUDA)`.
  /// @param num_inference_steps number of steps
  /// @param device device of `timesteps()`
  /// @throws ConfigError if a number is out of range
  void set_timesteps(int64_t num_inference_steps, at::Device device);
  /// Returns the timestep that follows in a run. DDPM, DDIM, LCM and TCD have this method.
  /// @param timestep one of `timesteps()`; before `set_timesteps` any training timestep
  /// @return the next timestep; below 0 after the last one
  /// @throws TensorError if the timestep is unknown; Error if the class has no previous_timestep
  virtual int64_t previous_timestep(int64_t timestep) const;
  /// Sets the position in `timesteps()` at which a run starts (image to image).
  /// @param begin_index position from 0
  /// @throws Error if the class has no set_begin_index
  virtual void set_begin_index(int64_t begin_index = 0);
  /// Returns true if the class has `set_begin_index`. The other classes find their position by the timestep.
  virtual bool has_begin_index() const { return false; }
  /// Computes x_{t-1} from x_t.
  /// @param model_output prediction of the model (see `prediction_type()`), shape of the sample (twice the
  ///   channels for a learned variance)
  /// @param timestep 0-dim or `[1]`, one of `timesteps()`
  /// @param sample x_t `[B, ...]`
  /// @param options the options that the class supports
  /// @return x_{t-1}, and the other results of the class
  /// @throws TensorError on a shape, dtype or device mismatch or an unknown timestep; ConfigError for an
  ///   option that is not supported; Error if the class needs `set_timesteps` first
  virtual SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                               const StepOptions& options = {}) = 0;
  /// @copydoc step(const Tensor&, const Tensor&, const Tensor&, const StepOptions&)
  SchedulerOutput step(const Tensor& model_output, const at::Scalar& timestep, const Tensor& sample,
                       const StepOptions& options = {});

  /// Writes `scheduler_config.json` atomically.
  /// @param folder destination, which is created if it does not exist
  /// @throws FileError if the file cannot be written; ConfigError if a field holds a value that a file cannot
  ///   hold
  void save_pretrained(const std::filesystem::path& folder) const;

  /// Makes the scheduler that `_class_name` names: a class of this library, or one that `register_scheduler`
  /// added.
  /// @param json text of a config file, or `config_json()` of a scheduler
  /// @param overrides values that replace those of `json`
  /// @return the scheduler
  /// @throws ConfigError naming the class if it is unknown, or the key if a value is invalid
  static std::unique_ptr<Scheduler> from_config(std::string_view json, const ConfigOverrides& overrides = {});
  /// Reads `scheduler_config.json` and makes the scheduler that `_class_name` names.
  /// @param folder the folder, or the file itself
  /// @param options subfolder
  /// @return the scheduler
  /// @throws FileError if there is no such file; ConfigError naming the class if it is unknown, or the key if
  ///   a value is invalid
  static std::unique_ptr<Scheduler> from_pretrained(const std::filesystem::path& folder,
                                                    const SchedulerLoadOptions& options = {});

 protected:
  // Copying and assigning through the base would slice. The classes of schedulers are values, and `clone`
  // copies any of them. A pipeline gets another scheduler by its `set_scheduler`.
  Scheduler() = default;
  Scheduler(const Scheduler&) = default;
  Scheduler(Scheduler&&) noexcept = default;
  Scheduler& operator=(const Scheduler&) = default;
  Scheduler& operator=(Scheduler&&) noexcept = default;
};

}  // namespace diffusers
