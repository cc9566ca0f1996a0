#pragma once

#include <cstdint>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// A generator of its own on a device, so that nothing but its owner draws from it.
Generator make_device_generator(at::Device device, uint64_t seed);

/// The states of the global generators that a program draws from on `device`: the CPU's, and the device's
/// own.
TensorMap global_random_state(at::Device device);
/// @throws TensorError if there is no state for one of the generators, or it does not fit
void set_global_random_state(at::Device device, const TensorMap& state);

/// Sets a generator to the state of that name. @throws TensorError if there is none, or it does not fit
void set_generator_state(Generator generator, const TensorMap& states, const std::string& name);

/// Puts the global generators back when the scope ends.
class RandomStateGuard {
 public:
  explicit RandomStateGuard(at::Device device) : device_(device), state_(global_random_state(device)) {}
  RandomStateGuard(const RandomStateGuard&) = delete;
  RandomStateGuard& operator=(const RandomStateGuard&) = delete;
  ~RandomStateGuard();

 private:
  at::Device device_;
  TensorMap state_;
};

}  // namespace internal
}  // namespace diffusers
