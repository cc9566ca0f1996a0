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

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The timesteps of a scheduler: a 1-D tensor of Python's dtype that also iterates as 0-dim tensors.
class Timesteps : public at::Tensor {
 public:
  class Iterator {
   public:
    Iterator(const at::Tensor* tensor, int64_t index) : tensor_(tensor), index_(index) {}
    at::Tensor operator*() const;
    Iterator& operator++() {
      ++index_;
      return *this;
    }
    bool operator!=(const Iterator& other) const { return index_ != other.index_; }
    bool operator==(const Iterator& other) const { return index_ == other.index_; }

   private:
    const at::Tensor* tensor_;
    int64_t index_;
  };

  Timesteps() = default;
  Timesteps(at::Tensor tensor) : at::Tensor(std::move(tensor)) {}  // NOLINT(google-explicit-constructor)
  Iterator begin() const { return {this, 0}; }
  Iterator end() const;
};

/// The arguments of every `step` beyond the first three, in the order of the Python calls. A scheduler
/// ignores none that was given: one that it does not have throws ConfigError. Only the generator is taken by
/// all, since a pipeline passes it to any scheduler; a deterministic one draws nothing from it.
struct StepOptions {
  std::optional<double> eta = std::nullopt;  ///< none: the default of the class (0; 0.3 for TCD)
  bool use_clipped_model_output = false;
  double s_churn = 0.0;
  double s_tmin = 0.0;
  double s_tmax = std::numeric_limits<double>::infinity();
  double s_noise = 1.0;
  std::optional<Generator> generator = std::nullopt;
  Tensor variance_noise = {};
  std::optional<int64_t> order = std::nullopt;  ///< LMS: how many slopes it takes, 1 to 4; none: 4
};

/// What `step` returns; the fields a scheduler has no value for are undefined.
struct SchedulerOutput {
  Tensor prev_sample = {};           ///< x_{t-1}
  Tensor pred_original_sample = {};  ///< the predicted x_0
  Tensor denoised = {};              ///< TCD and consistency models
  Tensor pred_noised_sample = {};    ///< TCD
};

struct SetTimestepsOptions {
  at::Device device = at::kCPU;
  std::optional<int64_t> original_inference_steps = std::nullopt;
  std::vector<double> sigmas = {};
  std::optional<double> mu = std::nullopt;
  std::vector<double> timesteps = {};
  std::optional<double> strength = std::nullopt;
  std::optional<int64_t> num_train_timesteps = std::nullopt;  ///< spread over these; none: the config's
};

struct SchedulerLoadOptions {
  std::string subfolder = {};
};

/// What all schedulers share. A method that Python's class does not have throws `Error`.
class Scheduler {
 public:
  virtual ~Scheduler() = default;

  /// Python's class name, e.g. "DDPMScheduler".
  virtual std::string class_name() const = 0;
  /// The configuration as Python's `scheduler.config`: JSON with every field, `_class_name`, and the keys
  /// that were unknown when it was loaded.
  virtual std::string config_json() const = 0;
  virtual std::unique_ptr<Scheduler> clone() const = 0;

  virtual Tensor betas() const;
  /// abar_t, float32 `[num_train_timesteps]` as Python computes it.
  virtual Tensor alphas_cumprod() const;
  virtual Tensor final_alpha_cumprod() const;
  virtual Tensor sigmas() const;
  virtual Timesteps timesteps() const = 0;
  virtual double init_noise_sigma() const { return 1.0; }
  virtual int64_t order() const { return 1; }
  virtual int64_t num_train_timesteps() const = 0;
  /// "epsilon", "sample", "v_prediction" or "flow_prediction": what the model is trained to give.
  virtual std::string prediction_type_name() const = 0;

  virtual Tensor scale_model_input(const Tensor& sample, const Tensor& timestep = {}) const;
  Tensor scale_model_input(const Tensor& sample, const at::Scalar& timestep) const;
  virtual Tensor add_noise(const Tensor& original_samples, const Tensor& noise,
                           const Tensor& timesteps) const;
  virtual Tensor get_velocity(const Tensor& sample, const Tensor& noise, const Tensor& timesteps) const;
  virtual Tensor scale_noise(const Tensor& sample, const Tensor& timestep, const Tensor& noise) const;

  virtual void set_timesteps(std::optional<int64_t> num_inference_steps,
                             const SetTimestepsOptions& options = {}) = 0;
  /// Where in `timesteps()` a run starts that does not start at the first one (image to image).
  virtual void set_begin_index(int64_t begin_index = 0);
  /// Whether the class has set_begin_index; the others find their place by the timestep.
  virtual bool has_begin_index() const { return false; }
  virtual SchedulerOutput step(const Tensor& model_output, const Tensor& timestep, const Tensor& sample,
                               const StepOptions& options = {}) = 0;
  SchedulerOutput step(const Tensor& model_output, const at::Scalar& timestep, const Tensor& sample,
                       const StepOptions& options = {});

  /// Writes `scheduler_config.json` into a folder, which is made if need be.
  void save_pretrained(const std::filesystem::path& folder) const;

  /// Makes the scheduler that `_class_name` names.
  static std::unique_ptr<Scheduler> from_config(std::string_view json);
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
