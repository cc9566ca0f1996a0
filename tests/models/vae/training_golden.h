#pragma once

// tests/golden/autoencoder_training.safetensors, which tests/reference/autoencoder_training.py writes, and
// the models that have its weights.

#include <cstdint>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/discriminator.h>
#include <diffusers/models/lpips.h>

#include <torch/types.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {

inline constexpr uint64_t kGoldenLpipsSeed = 21;
inline constexpr uint64_t kGoldenDiscriminatorSeed = 22;
inline constexpr uint64_t kGoldenModelSeed = 23;
inline constexpr uint64_t kGoldenDataSeed = 24;

inline const Golden& training_golden() {
  static const Golden kGolden = load_golden("autoencoder_training.safetensors");
  return kGolden;
}

/// The cases of "lpips", "discriminator", "loss" or "trajectory".
inline Json training_cases(const char* title) {
  return parse_json(training_golden().metadata.at("cases"), "cases").at(title);
}

/// Numbers from [-1, 1), as the script draws them.
inline Tensor drawn_images(const Generator& generator, const std::vector<int64_t>& shape) {
  return torch::rand(shape, generator) * 2 - 1;
}

inline LPIPS golden_lpips(const std::string& net, at::ScalarType dtype = at::kDouble) {
  manual_seed(kGoldenLpipsSeed);
  LPIPS lpips({.net = enum_from_name<LPIPSNet>(net, "net")});
  lpips->to(dtype);
  return lpips;
}

inline NLayerDiscriminator golden_discriminator(const NLayerDiscriminatorConfig& config,
                                                at::ScalarType dtype = at::kDouble) {
  manual_seed(kGoldenDiscriminatorSeed);
  NLayerDiscriminator discriminator(config);
  // `to` converts integers as well.
  if (dtype != at::kFloat) discriminator->to(dtype);
  return discriminator;
}

}  // namespace diffusers::test
