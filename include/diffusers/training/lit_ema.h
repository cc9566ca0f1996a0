#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

struct LitEmaConfig {
  double decay = 0.9999;
  /// Ramps the decay up over the first updates; false: it is `decay` from the first one.
  bool use_num_updates = true;
};

/// The moving average of CompVis' latent-diffusion (`LitEma` of ldm/modules/ema.py), for checkpoints of that
/// family to be read, continued and written.
///
/// Update n, counted from 1, has the decay min(decay, (1 + n) / (10 + n)), in float32. Parameters that do not
/// require a gradient when the average is made are not averaged.
class LitEma {
 public:
  /// @param named_parameters such as `module->named_parameters()`; every call takes the same
  /// @throws ConfigError for a decay outside 0 to 1, and for two names that are one without their dots
  explicit LitEma(const TensorMap& named_parameters, const LitEmaConfig& config = {});

  /// Python's `forward`. @throws TensorError unless the same parameters are trained as before
  void step(const TensorMap& named_parameters);
  /// Writes the average into the parameters; those that are not averaged stay.
  void copy_to(const TensorMap& named_parameters) const;
  /// Keeps a copy of the parameters until `restore`.
  void store(const TensorMap& named_parameters);
  /// Puts back what `store` kept. @throws Error if nothing is stored
  void restore(const TensorMap& named_parameters);

  /// The decay of update number `num_updates`.
  double get_decay(int64_t num_updates) const;
  /// Updates so far; -1 without `use_num_updates`.
  int64_t num_updates() const { return num_updates_; }
  double decay() const { return decay_; }
  /// By the names of the parameters.
  const TensorMap& shadow_params() const { return shadow_params_; }

  /// `<prefix>decay`, `<prefix>num_updates` and the averages under `lit_ema_name`s, as in a checkpoint of
  /// latent-diffusion. The averages are the object's own tensors.
  TensorMap state_dict(std::string_view prefix = "model_ema.") const;
  /// Takes decay, count and averages out of a checkpoint, which may hold other tensors too.
  /// @throws TensorError naming what is missing or of another shape
  void load_state_dict(const TensorMap& checkpoint, std::string_view prefix = "model_ema.");

 private:
  double decay_;
  int64_t num_updates_;
  TensorMap shadow_params_;
  TensorMap stored_params_;
};

/// The name of a parameter without its dots, as latent-diffusion names its average:
/// "diffusion_model.out.2.weight" becomes "diffusion_modelout2weight".
std::string lit_ema_name(std::string_view parameter_name);

/// Takes the averages out of a checkpoint of latent-diffusion.
/// @param parameter_names as in the averaged module: the names of the checkpoint's own weights without
///        "model.", say
/// @return the averages by those names; names without an average (parameters that were frozen) are left out
/// @throws TensorError if there is no average at all
TensorMap averages_from_lit_ema(const TensorMap& checkpoint, const std::vector<std::string>& parameter_names,
                                std::string_view prefix = "model_ema.");

}  // namespace diffusers
