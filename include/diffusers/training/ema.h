#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Options of an `EMAModel`: the arguments of `diffusers.training_utils.EMAModel`.
struct EMAModelConfig {
  double decay = 0.9999;          ///< upper bound of the decay, in [0, 1]
  double min_decay = 0.0;         ///< lower bound of the decay, in [0, 1]
  int64_t update_after_step = 0;  ///< steps at the start in which the average is a copy of the parameters
  bool use_ema_warmup = false;    ///< true: the decay follows `inv_gamma` and `power`; see `get_decay`
  double inv_gamma = 1.0;         ///< with warm-up: inverse multiplicative factor of the decay, above 0
  double power = 2.0 / 3.0;       ///< with warm-up: exponent of the decay, finite
};

/// State of a saved average besides its tensors (Python: `EMAModel.state_dict()` without `shadow_params`).
struct EMAModelState {
  EMAModelConfig config;          ///< options of the average
  int64_t optimization_step = 0;  ///< number of calls of `EMAModel::step`
};

/// Exponential moving average (EMA) of parameters (`diffusers.training_utils.EMAModel`).
///
/// The average is on the device of the parameters, in their dtype. All calls take the same parameters in the
/// same order. The average of a parameter that does not require a gradient shares the memory of the
/// parameter. If such a parameter is trained later, its average starts from its value at the next `step`.
class EMAModel {
 public:
  /// Starts an average at the current values.
  /// @param parameters such as `unet->parameters()`
  /// @param config decay and warm-up
  /// @throws ConfigError naming the option and its value; TensorError for an undefined parameter
  explicit EMAModel(const std::vector<Tensor>& parameters, const EMAModelConfig& config = {});

  /// Loads an average that `save_ema_state` or Python's `EMAModel.save_pretrained` wrote. The weights of the
  /// folder are the average, and its `config.json` contains the state. A missing key has its default.
  /// @param folder model folder
  /// @param named_parameters parameters of the model, in the order of the parameters of `step`
  /// @return the average, on the devices and in the dtypes of `named_parameters`
  /// @throws FileError for an unreadable file or a missing tensor
  /// @throws ConfigError for an invalid state
  /// @throws TensorError for a tensor of another shape
  static EMAModel from_pretrained(const std::filesystem::path& folder, const TensorMap& named_parameters);

  /// Moves the average towards the parameters: average = decay * average + (1 - decay) * parameter.
  /// Integral parameters, and those that do not require a gradient, are copied.
  /// @param parameters the current values
  /// @throws TensorError for another number of parameters or other shapes
  void step(const std::vector<Tensor>& parameters);
  /// Returns the decay of a step.
  ///
  /// Let n = `optimization_step` - `update_after_step` - 1. The decay is 0 for n <= 0. For n > 0 it is
  /// 1 - (1 + n / inv_gamma)^-power with warm-up and (1 + n) / (10 + n) without, limited to [min_decay,
  /// decay].
  /// @param optimization_step number of the step, from 1
  /// @return the decay, in [0, 1]
  double get_decay(int64_t optimization_step) const;
  /// Returns the decay of the last `step`; 0 before the first.
  double cur_decay_value() const { return cur_decay_value_; }
  /// Returns the number of calls of `step`.
  int64_t optimization_step() const { return optimization_step_; }
  /// Returns the average, one tensor for each parameter.
  const std::vector<Tensor>& shadow_params() const { return shadow_params_; }
  /// Returns the options.
  const EMAModelConfig& config() const { return config_; }

  /// Writes the average into the parameters.
  /// @param parameters receive the average
  /// @throws TensorError for another number of parameters or other shapes
  void copy_to(const std::vector<Tensor>& parameters) const;
  /// Copies the parameters to the CPU, for `restore`.
  /// @param parameters the values to copy
  /// @throws TensorError for another number of parameters or other shapes
  void store(const std::vector<Tensor>& parameters);
  /// Writes the values that `store` copied into the parameters and frees the copy.
  /// @param parameters receive the values
  /// @throws Error if nothing is stored; TensorError for another number of parameters or other shapes
  void restore(const std::vector<Tensor>& parameters);
  /// Moves the average to another device, or converts its dtype. If the parameters are on a CUDA device, an
  /// average on the CPU saves device memory and costs a copy in each step.
  /// @param device device of the average; None: unchanged
  /// @param dtype dtype of the floating tensors; None: unchanged. Integral tensors keep their dtype
  /// @param non_blocking true does not wait for the copies
  void to(std::optional<at::Device> device, std::optional<at::ScalarType> dtype = std::nullopt,
          bool non_blocking = false);
  /// Moves an average on the CPU into pinned memory, for faster transfers.
  /// @throws Error without a CUDA device, or if the average is not on the CPU
  void pin_memory();

  /// @return the state without the tensors
  EMAModelState state() const { return {config_, optimization_step_}; }
  /// Restores the options and the step count.
  /// @param state result of `state`
  /// @throws ConfigError naming the option and its value
  void load_state(const EMAModelState& state);
  /// Replaces the average.
  /// @param shadow_params one tensor for each parameter, on any device
  /// @throws TensorError for another number of tensors or other shapes
  void load_shadow_params(const std::vector<Tensor>& shadow_params);

 private:
  void require_match(const std::vector<Tensor>& parameters, const char* where) const;

  EMAModelConfig config_;
  std::vector<Tensor> shadow_params_;
  std::vector<bool> is_shared_;  // of each: it has the memory of the parameter
  std::vector<Tensor> stored_params_;
  int64_t optimization_step_ = 0;
  double cur_decay_value_ = 0.0;
};

/// Adds the state of an average to `config.json` of a model folder with the averaged weights. Python's
/// `EMAModel.from_pretrained` reads these keys. The other keys of the file do not change.
/// @param state options and step count
/// @param folder model folder with a `config.json`
/// @throws FileError if `config.json` cannot be read or written
void save_ema_state(const EMAModelState& state, const std::filesystem::path& folder);

/// Reads the state of an average from `config.json` of a model folder.
/// @param folder model folder
/// @return the state; a missing key has its default
/// @throws FileError if `config.json` cannot be read; ConfigError for a value of another type
EMAModelState load_ema_state(const std::filesystem::path& folder);

}  // namespace diffusers
