#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Options of a `LitEma`: the arguments of latent-diffusion's class.
struct LitEmaConfig {
  double decay = 0.9999;  ///< upper bound of the decay, in [0, 1]
  /// true: the decay of update n is min(decay, (1 + n) / (10 + n)). false: it is `decay` in all updates.
  bool use_num_updates = true;
};

/// Exponential moving average (EMA) of CompVis' latent-diffusion (`LitEma` of ldm/modules/ema.py). It reads,
/// continues and writes the averages in the checkpoints of that code.
///
/// The decay is computed in float32, as in Python. Parameters that do not require a gradient when the object
/// is created are not averaged. The average is on the device of the parameters, in their dtype.
class LitEma {
 public:
  /// Starts an average at the current values.
  /// @param named_parameters such as `unet->named_parameters()`; all calls take the same parameters
  /// @param config decay
  /// @throws ConfigError for a decay outside [0, 1], and for two names that differ only in their dots
  explicit LitEma(const TensorMap& named_parameters, const LitEmaConfig& config = {});

  /// Moves the average towards the parameters (Python's `forward`).
  /// @param named_parameters the current values
  /// @throws TensorError if a parameter is missing, has another shape, or has another `requires_grad` than at
  ///         the start
  void step(const TensorMap& named_parameters);
  /// Writes the average into the parameters. Those that are not averaged do not change.
  /// @param named_parameters receive the average
  /// @throws TensorError if an averaged parameter is missing or has another shape
  void copy_to(const TensorMap& named_parameters) const;
  /// Copies the parameters to the CPU, for `restore`.
  /// @param named_parameters the values to copy
  void store(const TensorMap& named_parameters);
  /// Writes the values that `store` copied into the parameters and frees the copy.
  /// @param named_parameters receive the values
  /// @throws Error if nothing is stored; TensorError if a parameter is missing or has another shape
  void restore(const TensorMap& named_parameters);

  /// Returns the decay of an update.
  /// @param num_updates number of the update, from 1; -1: without `use_num_updates`
  /// @return the decay, in [0, 1], rounded to float32
  double get_decay(int64_t num_updates) const;
  /// Returns the number of updates; -1 without `use_num_updates`.
  int64_t num_updates() const { return num_updates_; }
  /// Sets the number of updates, to continue an average; no effect without `use_num_updates`.
  /// @param num_updates 0 or more
  /// @throws ConfigError for a negative number
  void set_num_updates(int64_t num_updates);
  /// Returns the upper bound of the decay.
  double decay() const { return decay_; }
  /// @return the averages, by the names of the parameters
  const TensorMap& shadow_params() const { return shadow_params_; }

  /// Returns the state as in a checkpoint of latent-diffusion: `<prefix>decay` (float32),
  /// `<prefix>num_updates` (int32), and each average under `<prefix>` and its `lit_ema_name`.
  /// @param prefix beginning of each key
  /// @return the averages are the object's own tensors, not copies
  TensorMap state_dict(std::string_view prefix = "model_ema.") const;
  /// Takes decay, number of updates and averages from a checkpoint.
  /// @param checkpoint tensors of a checkpoint; other tensors in it are ignored
  /// @param prefix beginning of each key
  /// @throws TensorError naming the entry that is missing or of another shape; ConfigError for a decay
  ///         outside [0, 1]
  void load_state_dict(const TensorMap& checkpoint, std::string_view prefix = "model_ema.");

 private:
  double decay_;
  int64_t num_updates_;
  TensorMap shadow_params_;
  TensorMap stored_params_;
};

/// Removes the dots from a parameter's name, which gives the name of its average in latent-diffusion.
/// "diffusion_model.out.2.weight" becomes "diffusion_modelout2weight".
/// @param parameter_name name with dots
/// @return name without dots
std::string lit_ema_name(std::string_view parameter_name);

/// Takes the averages from a checkpoint of latent-diffusion.
/// @param checkpoint tensors of the checkpoint
/// @param parameter_names names of the averaged module's parameters, such as the names of the checkpoint's
///        weights without "model."
/// @param prefix beginning of the key of each average
/// @return the averages by these names; a name without an average (a frozen parameter) is left out
/// @throws TensorError if there is no average at all
TensorMap averages_from_lit_ema(const TensorMap& checkpoint, const std::vector<std::string>& parameter_names,
                                std::string_view prefix = "model_ema.");

}  // namespace diffusers
