#include "training/loop/random_state.h"

#include <mutex>
#include <string>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

Tensor state_of(Generator generator) {
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return generator.get_state().clone();
}

}  // namespace

Generator make_device_generator(at::Device device, uint64_t seed) {
  if (device.is_cpu()) return make_generator(seed);
  Generator generator =
      at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
  const std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_current_seed(seed);
  return generator;
}

void set_generator_state(Generator generator, const TensorMap& states, const std::string& name) {
  require<TensorError>(states.contains(name), "the random state lacks \"{}\"", name);
  const Tensor& state = states.at(name);
  try {
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(state);
  } catch (const c10::Error&) {
    fail<TensorError>("the random state \"{}\" is {}, which is no state of a generator on {}", name,
                      describe(state), generator.device().str());
  }
}

TensorMap global_random_state(at::Device device) {
  TensorMap states{{"cpu", state_of(at::detail::getDefaultCPUGenerator())}};
  if (!device.is_cpu()) states.insert(device.str(), state_of(at::globalContext().defaultGenerator(device)));
  return states;
}

void set_global_random_state(at::Device device, const TensorMap& state) {
  set_generator_state(at::detail::getDefaultCPUGenerator(), state, "cpu");
  if (!device.is_cpu())
    set_generator_state(at::globalContext().defaultGenerator(device), state, device.str());
}

RandomStateGuard::~RandomStateGuard() {
  try {
    set_global_random_state(device_, state_);
  } catch (const std::exception& error) {
    log_message(LogLevel::kError, error.what());
  }
}

}  // namespace internal
}  // namespace diffusers
