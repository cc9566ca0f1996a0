// Captures CUDA graphs with LibTorch's at::cuda::CUDAGraph. Part of libdiffusers_cuda.so.

#include <mutex>
#include <optional>

#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/util/Exception.h>

#include "core/captured_graph.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Keeps the first warning of a scope, and passes on all others.
class SyncWarnings : public c10::WarningHandler {
 public:
  void process(const c10::Warning& warning) override {
    if (warning.msg().find("synchroniz") == std::string::npos) return before_->process(warning);
    if (first_.empty()) first_ = warning.msg();
  }
  const std::string& first() const { return first_; }

 private:
  c10::WarningHandler* before_ = c10::WarningUtils::get_warning_handler();
  std::string first_;
};

/// Makes operations that wait for the device warn, until the scope ends.
class SyncWarningScope {
 public:
  SyncWarningScope() : before_(c10::cuda::warning_state().get_sync_debug_mode()) {
    c10::cuda::warning_state().set_sync_debug_mode(c10::cuda::SyncDebugMode::L_WARN);
  }
  SyncWarningScope(const SyncWarningScope&) = delete;
  SyncWarningScope& operator=(const SyncWarningScope&) = delete;
  ~SyncWarningScope() { c10::cuda::warning_state().set_sync_debug_mode(before_); }

 private:
  c10::cuda::SyncDebugMode before_;
};

/// Place of a generator in its sequence.
struct GeneratorPlace {
  Generator generator;
  uint64_t seed = 0;
  uint64_t offset = 0;
};

GeneratorPlace place_of(const Generator& generator) {
  const auto* state = at::check_generator<at::CUDAGeneratorImpl>(generator);
  return {generator, state->current_seed(), state->philox_offset_per_thread()};
}

/// Gives a generator a new state, since the old one counts as being captured.
void restore(GeneratorPlace& place, c10::DeviceIndex device) {
  Generator fresh = at::cuda::detail::createCUDAGenerator(device);
  fresh.set_current_seed(place.seed);
  at::check_generator<at::CUDAGeneratorImpl>(fresh)->set_philox_offset_per_thread(place.offset);
  const std::lock_guard lock(place.generator.mutex());
  place.generator.graphsafe_set_state(fresh);
}

class CudaGraphBackend : public GraphBackend {
 public:
  std::string run_and_observe(const std::function<void()>& body) override {
    SyncWarnings warnings;
    const c10::WarningUtils::WarningHandlerGuard guard(&warnings);
    const SyncWarningScope scope;
    body();
    return warnings.first();
  }

  void capture(const std::function<void()>& body, const std::vector<Generator>& generators) override {
    const c10::DeviceIndex device = c10::cuda::current_device();
    std::vector<GeneratorPlace> places{place_of(at::cuda::detail::getDefaultCUDAGenerator(device))};
    for (const Generator& generator : generators) places.push_back(place_of(generator));
    c10::cuda::device_synchronize();
    const c10::cuda::CUDAStream own_stream = c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device);
    const c10::cuda::CUDAStreamGuard stream(own_stream);
    graph_.emplace();
    try {
      for (const Generator& generator : generators) graph_->register_generator_state(generator);
      // Threads of a data loader may allocate pinned memory meanwhile.
      graph_->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      body();
      graph_->capture_end();
    } catch (...) {
      abandon(device, own_stream);
      for (GeneratorPlace& place : places) restore(place, device);
      throw;
    }
  }

  void replay() override { graph_->replay(); }

 private:
  /// Ends a capture that failed.
  void abandon(c10::DeviceIndex device, const c10::cuda::CUDAStream& stream) {
    const auto ignoring_errors = [](const auto& run) {
      try {
        run();
      } catch (const c10::Error&) {
        // The error that ended the capture is reported instead.
        static_cast<void>(cudaGetLastError());
      }
    };
    ignoring_errors([&] { graph_->capture_end(); });
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    if (cudaStreamIsCapturing(stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone) {
      cudaGraph_t unfinished = nullptr;
      static_cast<void>(cudaStreamEndCapture(stream, &unfinished));
      if (unfinished != nullptr) static_cast<void>(cudaGraphDestroy(unfinished));
    }
    static_cast<void>(cudaGetLastError());
    ignoring_errors([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(device, graph_->pool()); });
    ignoring_errors([&] { graph_.reset(); });
  }

  std::optional<at::cuda::CUDAGraph> graph_;
};

}  // namespace
}  // namespace internal
}  // namespace diffusers

extern "C" diffusers::GraphBackend* diffusers_new_cuda_graph_backend() {
  return new diffusers::CudaGraphBackend;
}

extern "C" const char* diffusers_cuda_version() { return DIFFUSERS_VERSION; }
