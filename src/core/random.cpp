#include <diffusers/core/error.h>
#include <diffusers/core/random.h>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/utils.h>

#include "core/require.h"

namespace diffusers {

Generator make_generator(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

void manual_seed(uint64_t seed) { torch::manual_seed(seed); }

at::Tensor randn_tensor(at::IntArrayRef shape, const std::optional<Generator>& generator, at::Device device,
                        at::ScalarType dtype) {
  const bool has_generator = generator && generator->defined();
  if (!has_generator) return at::randn(shape, at::TensorOptions().dtype(dtype).device(device));
  const at::Device source = generator->device();
  if (source.type() != device.type() && !source.is_cpu())
    fail<TensorError>("a generator on {} cannot draw numbers for {}; use a generator on the CPU",
                      source.str(), device.str());
  return at::randn(shape, generator, at::TensorOptions().dtype(dtype).device(source))
      .to(device, /*non_blocking=*/true);
}

}  // namespace diffusers
