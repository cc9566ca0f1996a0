#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

struct EMAModelConfig {
  double decay = 0.9999;
  double min_decay = 0.0;
  int64_t update_after_step = 0;
  bool use_ema_warmup = false;
  double inv_gamma = 1.0;
  double power = 2.0 / 3.0;
};

/// What a saved average needs besides its tensors (Python: `EMAModel.state_dict()` without `shadow_params`).
struct EMAModelState {
  EMAModelConfig config;
  int64_t optimization_step = 0;
};

/// Exponential moving average of a model's parameters (diffusers.training_utils.EMAModel).
///
/// The average lies where the parameters lie. Every call takes the parameters in the same order.
class EMAModel {
 public:
  /// @throws ConfigError naming the field and its value
  explicit EMAModel(const std::vector<Tensor>& parameters, const EMAModelConfig& config = {});

  /// The average that lies in a model folder with its state in `config.json`, as `save_ema_state` and
  /// Python's `EMAModel.save_pretrained` leave it. What `config.json` does not say is as in a new average.
  /// @param named_parameters the model's, in the order in which `step` will get them
  /// @throws FileError, ConfigError or TensorError
  static EMAModel from_pretrained(const std::filesystem::path& folder, const TensorMap& named_parameters);

  /// Moves the average towards the parameters; those that do not require a gradient are copied.
  void step(const std::vector<Tensor>& parameters);
  /// 0 up to update_after_step + 1; then 1 - (1 + step / inv_gamma)^-power with warm-up, else (1 + step) /
  /// (10 + step); limited to [min_decay, decay].
  double get_decay(int64_t optimization_step) const;
  /// The decay of the last `step`; 0 before the first.
  double cur_decay_value() const { return cur_decay_value_; }
  int64_t optimization_step() const { return optimization_step_; }
  const std::vector<Tensor>& shadow_params() const { return shadow_params_; }
  const EMAModelConfig& config() const { return config_; }

  /// Writes the average into the parameters.
  void copy_to(const std::vector<Tensor>& parameters) const;
  /// Keeps a copy of the parameters until `restore`.
  void store(const std::vector<Tensor>& parameters);
  /// Puts back what `store` kept. @throws Error if nothing is stored
  void restore(const std::vector<Tensor>& parameters);
  /// Moves the average, or converts it; integral tensors keep their dtype. An average on the CPU of
  /// parameters on another device costs that device no memory, and a copy each step.
  void to(std::optional<at::Device> device, std::optional<at::ScalarType> dtype = std::nullopt,
          bool non_blocking = false);
  /// Moves an average that lies on the CPU into pinned memory, for faster transfers.
  /// @throws Error without a CUDA device, or if the average lies elsewhere
  void pin_memory();

  EMAModelState state() const { return {config_, optimization_step_}; }
  /// @throws ConfigError for a state that no average can have
  void load_state(const EMAModelState& state);
  /// Replaces the average. @throws TensorError unless there is one tensor of the same shape for each
  /// parameter
  void load_shadow_params(const std::vector<Tensor>& shadow_params);

 private:
  void require_match(const std::vector<Tensor>& parameters, const char* where) const;

  EMAModelConfig config_;
  std::vector<Tensor> shadow_params_;
  std::vector<Tensor> stored_params_;
  int64_t optimization_step_ = 0;
  double cur_decay_value_ = 0.0;
};

/// Writes the state into `config.json` of a folder in which a model with averaged weights was saved, under
/// the keys by which Python's `EMAModel.from_pretrained` finds it.
void save_ema_state(const EMAModelState& state, const std::filesystem::path& folder);

/// What `config.json` of a folder says of an average; the defaults where it says nothing.
EMAModelState load_ema_state(const std::filesystem::path& folder);

}  // namespace diffusers
