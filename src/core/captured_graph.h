#pragma once

// A computation that is captured as a CUDA graph after some runs and then replayed.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {

/// Captures and replays on a device.
class GraphBackend {
 public:
  GraphBackend() = default;
  GraphBackend(const GraphBackend&) = delete;
  GraphBackend& operator=(const GraphBackend&) = delete;
  virtual ~GraphBackend() = default;

  /// Runs `body` and observes it.
  /// @return the reason why it cannot be captured, such as a copy to the host; empty if none was seen
  virtual std::string run_and_observe(const std::function<void()>& body) = 0;
  /// Captures the device's work of `body`, which does not run yet.
  /// @param generators random generators that the body draws from, besides the device's default one
  /// @throws Error or c10::Error; the random generators are then as before, and nothing is captured
  virtual void capture(const std::function<void()>& body, const std::vector<Generator>& generators) = 0;
  /// Runs what was captured.
  virtual void replay() = 0;
};

/// Warns that a computation is not captured. One warning for each text.
/// @param name what would be captured: "the training step"
void warn_of_no_graph(const std::string& name, const std::string& reason);

/// Returns a backend for CUDA devices; null if the library was built without CUDA.
std::unique_ptr<GraphBackend> make_cuda_graph_backend();

/// A function of tensors that is captured once its inputs repeat their shapes.
///
/// The first two runs with an input shape execute the function as usual. The second one is observed. The
/// third run captures the function, and it and all later runs copy the inputs and replay. If the function
/// cannot be captured, each run executes it, and one warning says why. Inputs of other shapes than the
/// captured ones are executed as usual.
class CapturedGraph {
 public:
  /// A function whose work depends on nothing but the inputs and on tensors that keep their memory.
  using Function = std::function<std::vector<Tensor>(const std::vector<Tensor>& inputs)>;

  /// @param name what is captured, for messages: "the training step"
  /// @param backend null: nothing is captured
  CapturedGraph(std::string name, std::unique_ptr<GraphBackend> backend, std::vector<Generator> generators);

  /// Runs the function.
  /// @param inputs on the device; undefined ones are passed on
  /// @param function the same for each call
  /// @return its results. Replayed ones have the same memory each time
  std::vector<Tensor> run(const std::vector<Tensor>& inputs, const Function& function);
  /// Returns true if the last run was a replay.
  bool was_replayed() const { return was_replayed_; }

 private:
  void give_up(const std::string& reason);
  bool fits(const std::vector<Tensor>& inputs) const;
  bool capture(const std::vector<Tensor>& inputs, const Function& function);

  std::string name_;
  std::unique_ptr<GraphBackend> backend_;
  std::vector<Generator> generators_;
  int runs_ = 0;
  bool is_captured_ = false;
  bool was_replayed_ = false;
  std::vector<Tensor> inputs_;   // of the last shape; captured: what the graph reads
  std::vector<Tensor> outputs_;  // what the graph writes
};

}  // namespace internal
}  // namespace diffusers

extern "C" {
/// Exported by libdiffusers_cuda.so. The caller owns the result.
diffusers::GraphBackend* diffusers_new_cuda_graph_backend();
}
