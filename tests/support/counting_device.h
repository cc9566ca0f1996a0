#pragma once

// A device for tests without a GPU. It counts the copies to it and the reads from it.

#include <cstdint>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace torch::nn {
class Module;
}

namespace diffusers::test {

/// A device that LibTorch treats as an accelerator (`privateuseone`). Its memory is host memory and its
/// operators are those of the CPU. A program uses it like a GPU: `is_cpu()` is false, operators refuse host
/// tensors, and reading a value or copying a tensor is a separate operation. On a GPU each of these makes the
/// host wait or moves data.
///
/// Link counting_device.cpp into a separate test program, since a GPU cannot be used next to
/// it.
at::Device counting_device();

/// Moves the parameters and buffers of a module. `Module::to` fails, since LibTorch does not allow a
/// parameter to take the data of a device of this kind.
void move_to_counting_device(torch::nn::Module& module);

/// Number of events by kind:
///
///     "aten::_local_scalar_dense"      a value is read: item(), a condition, is_nonzero()
///     "aten::nonzero", "aten::equal"   an operator whose result the host reads
///     "copy to the device"             of a host tensor, such as one that is made from values
///     "copy to the host"
using DeviceTraffic = std::map<std::string, int64_t>;

/// Counts the events of all threads during its lifetime. Only one may exist at a time. If the environment
/// variable DIFFUSERS_TRACE_TRAFFIC is set, each event prints its stack trace.
class TrafficCounter {
 public:
  TrafficCounter();
  TrafficCounter(const TrafficCounter&) = delete;
  TrafficCounter& operator=(const TrafficCounter&) = delete;
  ~TrafficCounter();

  DeviceTraffic traffic() const;
};

/// Returns the traffic of one repetition in `work(n)`: the traffic of `work(repetitions + 1)` minus that of
/// `work(repetitions)`. Traffic that occurs once in a call, or only in the first call, is not included.
template <class Work>
DeviceTraffic traffic_of_one(const Work& work, int64_t repetitions = 2) {
  work(repetitions);
  DeviceTraffic less;
  DeviceTraffic more;
  {
    const TrafficCounter counter;
    work(repetitions);
    less = counter.traffic();
  }
  {
    const TrafficCounter counter;
    work(repetitions + 1);
    more = counter.traffic();
  }
  for (const auto& [event, count] : less) more[event] -= count;
  std::erase_if(more, [](const auto& event) { return event.second == 0; });
  return more;
}

}  // namespace diffusers::test
