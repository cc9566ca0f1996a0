#pragma once

#include <optional>

#include <diffusers/training/training_config.h>

#include "models/layers/autocast_scope.h"

namespace diffusers {
inline namespace internal {

/// Lets the model compute in half precision where that is safe (Python: `torch.autocast`).
class Autocast {
 public:
  Autocast(at::DeviceType device, MixedPrecision precision) {
    if (precision == MixedPrecision::kNo) return;
    scope_.emplace(
        AutocastState{device, true, precision == MixedPrecision::kFp16 ? at::kHalf : at::kBFloat16},
        /*caching=*/true);
  }

 private:
  std::optional<AutocastScope> scope_;
};

}  // namespace internal
}  // namespace diffusers
