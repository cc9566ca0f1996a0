#pragma once

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

struct GradScalerConfig {
  double init_scale = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;
};

/// Loss scaling for float16 (torch.amp.GradScaler), all on the device.
class GradScaler {
 public:
  explicit GradScaler(at::Device device, const GradScalerConfig& config = {});

  /// The loss times the scale.
  Tensor scale(const Tensor& loss) const;
  /// Divides the gradients by the scale.
  /// @return float32 `[1]`: 1 if one of them was not finite, else 0
  Tensor unscale_(const std::vector<Tensor>& parameters) const;
  /// Shrinks the scale after an overflow, doubles it after `growth_interval` steps without one.
  void update(const Tensor& found_inf);
  const Tensor& get_scale() const { return scale_; }

  TensorMap state_dict() const;
  void load_state_dict(const TensorMap& state);

 private:
  GradScalerConfig config_;
  Tensor scale_;
  Tensor growth_tracker_;
};

}  // namespace diffusers
