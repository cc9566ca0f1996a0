#pragma once

// A device for tests without a GPU: what a program sends to it and reads from it is counted.

#include <cstdint>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

namespace torch::nn {
class Module;
}

namespace diffusers::test {

/// A device that LibTorch takes for an accelerator (of the kind `privateuseone`), whose memory is the host's
/// and whose operators are those of the CPU. To a program it is a device like a GPU: `is_cpu()` is false,
/// tensors of the host are refused beside its own, and reading a value or copying a tensor between the two
/// are operations of their own. On a GPU each of these makes the host wait, or moves data.
///
/// counting_device.cpp belongs into a test program of its own: a GPU cannot be used beside it.
at::Device counting_device();

/// Moves the parameters and buffers of a module. `Module::to` cannot: LibTorch does not let a parameter take
/// the data of a device that it does not know itself.
void move_to_counting_device(torch::nn::Module& module);

/// Number of events by what they are:
///
///     "aten::_local_scalar_dense"      a value is read: item(), a condition, is_nonzero()
///     "aten::nonzero", "aten::equal"   operators whose result the host needs, and their kind
///     "copy to the device"             of a tensor of the host, such as one that is made from values
///     "copy to the host"
using DeviceTraffic = std::map<std::string, int64_t>;

/// Counts from its construction on, in all threads. One at a time. If the environment variable
/// DIFFUSERS_TRACE_TRAFFIC is set, each event prints where it comes from.
class TrafficCounter {
 public:
  TrafficCounter();
  TrafficCounter(const TrafficCounter&) = delete;
  TrafficCounter& operator=(const TrafficCounter&) = delete;
  ~TrafficCounter();

  DeviceTraffic traffic() const;
};

/// What each of `work(n)`'s repetitions adds: the traffic of `work(repetitions + 1)` less that of
/// `work(repetitions)`, so that what happens once in a call does not count, nor what happens in the first
/// call.
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
