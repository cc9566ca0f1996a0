#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// Options of a `GradScaler`, with the names and defaults of `torch.amp.GradScaler`.
struct GradScalerConfig {
  double init_scale = 65536.0;     ///< initial scale, above 0
  double growth_factor = 2.0;      ///< factor on the scale after `growth_interval` steps, above 1
  double backoff_factor = 0.5;     ///< factor on the scale after an overflow, between 0 and 1
  int64_t growth_interval = 2000;  ///< consecutive steps without an overflow before the scale grows
};

/// Loss scaling for float16 (`torch.amp.GradScaler`). The host does not wait for the device.
///
/// @code
/// scaler.scale(loss).backward();
/// Tensor found_inf = scaler.unscale_(parameters);
/// optimizer.step(1.0, found_inf);
/// scaler.update(found_inf);
/// @endcode
class GradScaler {
 public:
  /// Creates a scaler.
  /// @param device device of the model
  /// @param config scale and growth
  /// @throws ConfigError naming the option and its value
  explicit GradScaler(at::Device device, const GradScalerConfig& config = {});

  /// Multiplies the loss by the scale.
  /// @param loss any shape, floating
  /// @return the scaled loss, with its graph
  Tensor scale(const Tensor& loss) const;
  /// Divides the gradients by the scale, in place.
  /// @param parameters parameters; those without a gradient are ignored
  /// @return found_inf, float32 `[1]`: 1 if a gradient is non-finite, else 0
  /// @throws ConfigError for a float16 gradient; the weights must be float32
  Tensor unscale_(const std::vector<Tensor>& parameters) const;
  /// Shrinks the scale after an overflow; grows it after `growth_interval` steps without one.
  /// @param found_inf float32 `[1]`, from `unscale_`
  void update(const Tensor& found_inf);
  /// Returns the scale, float32 `[1]`, on the scaler's device.
  const Tensor& get_scale() const { return scale_; }

  /// Returns the state: "scale" (float32 `[1]`) and "growth_tracker" (int32 `[1]`). The tensors are the
  /// scaler's own.
  TensorMap state_dict() const;
  /// Copies a state into the scaler.
  /// @param state as `state_dict` gives it, on any device
  /// @throws TensorError naming the entry that is missing, of another shape or dtype, or not a valid scale
  void load_state_dict(const TensorMap& state);

 private:
  GradScalerConfig config_;
  Tensor scale_;
  Tensor growth_tracker_;
};

}  // namespace diffusers
