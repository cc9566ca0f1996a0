#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

namespace torch::nn {
class Module;
}  // namespace torch::nn

namespace diffusers {

/// Names of layers that get an adapter, with PEFT's rule. A list takes each layer whose path is an element or
/// ends with "." and an element: `{"to_k", "to_out.0"}`. A single string is a regular expression that matches
/// the whole path: `"mid_block.*to_[qkv]"`.
class LoraTargets : public OneOrMany<std::string> {
 public:
  using OneOrMany<std::string>::OneOrMany;
  /// Makes an empty field, Python's None.
  LoraTargets() = default;
  /// Makes a regular expression.
  /// @param regex ECMAScript regular expression of a whole path
  LoraTargets(const char* regex)  // NOLINT(google-explicit-constructor): `.target_modules = "regex"`
      : OneOrMany<std::string>(std::string(regex)) {}
};

/// Numerator of the scale of an adapter. Takes integers, as in PEFT, and the fractions of kohya-ss files.
class LoraAlpha {
 public:
  /// Makes the value.
  /// @param value any number
  template <class Number>
  requires(std::integral<Number> || std::floating_point<Number>)
      LoraAlpha(Number value)  // NOLINT(google-explicit-constructor): `.lora_alpha = 4`
      : value_(static_cast<double>(value)) {}
  /// @return the value
  operator double() const { return value_; }  // NOLINT(google-explicit-constructor)

 private:
  double value_;
};

/// The arguments of PEFT's `LoraConfig(...)`, with its defaults. `save_lora_weights` stores them. PEFT's
/// other arguments are refused by name if a file has them.
struct LoraConfig {
  int64_t r = 8;             ///< rank of the update, positive
  LoraAlpha lora_alpha = 8;  ///< the update is multiplied by lora_alpha / r
  double lora_dropout = 0;   ///< dropout probability of the adapter's input in training, in [0, 1]
  /// Initial values. "default" or "true" (PEFT's `True`): A as torch.nn's layers, B zero. "gaussian": A from
  /// N(0, 1 / r^2), B zero. "false": both as torch.nn's layers, so the adapter changes the model at once.
  std::string init_lora_weights = "default";
  LoraTargets target_modules = {};  ///< layers that get an adapter; must match at least one
  bool use_rslora = false;          ///< multiplies the update by lora_alpha / sqrt(r) (Kalajdzievski 2023)
  bool use_dora = false;  ///< learns the norm of each row of the weight, too (DoRA, Liu et al. 2024)
  /// Ranks of layers that differ from r. A key is the end of a path or a regular expression of it; the first
  /// key that matches is used.
  std::vector<std::pair<std::string, int64_t>> rank_pattern = {};
  /// Values of lora_alpha of layers that differ, with keys as in rank_pattern.
  std::vector<std::pair<std::string, LoraAlpha>> alpha_pattern = {};
  std::string bias = "none";         ///< biases that are trained; only "none" is supported
  LoraTargets exclude_modules = {};  ///< layers that get no adapter although target_modules matches
};

namespace detail {

void lora_add(torch::nn::Module& model, const LoraConfig& config, const std::string& name);
void lora_add_at(torch::nn::Module& model, const LoraConfig& config, const std::string& name,
                 const std::vector<std::string>& paths);
void lora_check_addition(const torch::nn::Module& model, const std::string& name);
void lora_set(torch::nn::Module& model, const std::vector<std::string>& names,
              const std::vector<double>& weights);
void lora_enable(torch::nn::Module& model, bool enabled);
void lora_delete(torch::nn::Module& model, const std::vector<std::string>& names);
void lora_unload(torch::nn::Module& model);
void lora_fuse(torch::nn::Module& model, double scale, bool safe, const std::vector<std::string>& names);
void lora_unfuse(torch::nn::Module& model);
bool lora_is_fused(const torch::nn::Module& model);
std::vector<std::string> lora_active(const torch::nn::Module& model);
std::vector<std::string> lora_names(const torch::nn::Module& model);
LoraConfig lora_config(const torch::nn::Module& model, const std::string& name);

}  // namespace detail

/// Low-rank adapters of a model's linear layers and convolutions (LoRA, Hu et al. 2022; diffusers
/// `PeftAdapterMixin`). The tensors of an adapter stand in `named_parameters()` as
/// `PATH.lora_A.NAME.weight`, `PATH.lora_B.NAME.weight` and, with DoRA,
/// `PATH.lora_magnitude_vector.NAME.weight`. The parameters of the model keep their names. `save_pretrained`
/// writes the model without its adapters, and copies made by `clone` have them, too. A model without adapters
/// computes as if this class did not exist.
/// @tparam Derived the model's class, derived from torch::nn::Module
template <class Derived>
class PeftAdapterMixin {
 public:
  /// Adds an adapter with new weights and makes it the only active one. The first adapter freezes all
  /// parameters of the model. The weights are drawn from the CPU's global generator as PEFT draws them, in
  /// its order of the layers, so a seed gives Python's weights.
  /// @param config rank, scale, initial values and layers
  /// @param adapter_name name of the adapter, without a dot
  /// @throws ConfigError if a value is not supported, no layer matches, a layer that matches is neither
  /// linear
  ///   nor a convolution, the name is in use, or adapters are fused
  void add_adapter(const LoraConfig& config, const std::string& adapter_name = "default") {
    detail::lora_add(self(), config, adapter_name);
  }
  /// Makes adapters active, all others inactive. The active ones are trainable.
  /// @param adapter_names names of adapters
  /// @param weights factor of each adapter's update; empty: 1 for all
  /// @throws ConfigError if a name is unknown, the numbers of names and weights differ, or adapters are fused
  void set_adapters(const std::vector<std::string>& adapter_names, const std::vector<double>& weights = {}) {
    detail::lora_set(self(), adapter_names, weights);
  }
  /// Disables all adapters: the model computes what it does without them, bit for bit (with parameters that
  /// are frozen; LibTorch's matmul may round differently for those that require a gradient). Fused adapters
  /// are unfused.
  /// @throws ConfigError if the model has no adapter
  void disable_adapters() { detail::lora_enable(self(), false); }
  /// Enables the active adapters again.
  /// @throws ConfigError if the model has no adapter
  void enable_adapters() { detail::lora_enable(self(), true); }
  /// Deletes an adapter. If no active adapter remains, the first one by name becomes active. The model's
  /// parameters stay frozen, as in PEFT.
  /// @param adapter_name name of the adapter
  /// @throws ConfigError if the name is unknown or adapters are fused
  void delete_adapter(const std::string& adapter_name) { detail::lora_delete(self(), {adapter_name}); }
  /// Deletes adapters.
  /// @param adapter_names names of the adapters
  /// @throws ConfigError as `delete_adapter`
  void delete_adapters(const std::vector<std::string>& adapter_names) {
    detail::lora_delete(self(), adapter_names);
  }
  /// Removes all adapters. Fused adapters stay in the weights.
  void unload_lora() { detail::lora_unload(self()); }
  /// Adds the updates of adapters to the weights of the model. The forward pass then costs what it costs
  /// without adapters.
  /// @param lora_scale factor of the updates
  /// @param safe_fusing throws if a fused weight would not be finite
  /// @param adapter_names adapters to fuse; empty: the active ones
  /// @throws ConfigError if the model has no such adapter, adapters are disabled or already fused
  /// @throws TensorError if safe_fusing finds NaN or Inf; the weights are then unchanged
  void fuse_lora(double lora_scale = 1.0, bool safe_fusing = false,
                 const std::vector<std::string>& adapter_names = {}) {
    detail::lora_fuse(self(), lora_scale, safe_fusing, adapter_names);
  }
  /// Restores the weights of before `fuse_lora`, bit for bit. (PEFT subtracts the update and rounds, and
  /// keeps lora_scale in the adapters.)
  /// @throws ConfigError if no adapter is fused
  void unfuse_lora() { detail::lora_unfuse(self()); }
  /// @return names of the active adapters; empty without adapters
  std::vector<std::string> active_adapters() const { return detail::lora_active(self()); }
  /// @return names of all adapters
  std::vector<std::string> adapter_names() const { return detail::lora_names(self()); }
  /// Returns the config of an adapter (PEFT: `model.peft_config[name]`).
  /// @param adapter_name name of the adapter
  /// @return the config that it was added with
  /// @throws ConfigError if the name is unknown
  LoraConfig peft_config(const std::string& adapter_name = "default") const {
    return detail::lora_config(self(), adapter_name);
  }

 private:
  Derived& self() { return static_cast<Derived&>(*this); }
  const Derived& self() const { return static_cast<const Derived&>(*this); }
};

/// Returns the tensors of an adapter by the names of PEFT's files: `PATH.lora_A.weight`,
/// `PATH.lora_B.weight`, `PATH.lora_magnitude_vector` (PEFT `get_peft_model_state_dict`).
/// @param model a model with adapters
/// @param adapter_name name of the adapter
/// @return the tensors without their graph; they share memory with the model
/// @throws ConfigError if the name is unknown
TensorMap get_peft_model_state_dict(const torch::nn::Module& model,
                                    const std::string& adapter_name = "default");

/// Copies tensors into an adapter (PEFT `set_peft_model_state_dict`). The adapter keeps its dtypes and
/// devices. If an error is thrown, nothing has been copied.
/// @param model a model with adapters
/// @param tensors by their names in `get_peft_model_state_dict`
/// @param adapter_name name of the adapter
/// @throws ConfigError if the name is unknown
/// @throws TensorError naming the tensors that are missing, unknown, or have another shape
void set_peft_model_state_dict(torch::nn::Module& model, const TensorMap& tensors,
                               const std::string& adapter_name = "default");

}  // namespace diffusers
