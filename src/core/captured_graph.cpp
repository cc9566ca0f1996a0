#include "core/captured_graph.h"

#include <exception>
#include <utility>

#include <diffusers/core/logging.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/Exception.h>

#include "core/cuda_library.h"
#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr int kRunsBeforeCapture = 2;

bool has_options_of(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  return !a.defined() || (a.sizes() == b.sizes() && a.strides() == b.strides() &&
                          a.options().type_equal(b.options()) && a.device() == b.device());
}

}  // namespace

void warn_of_no_graph(const std::string& name, const std::string& reason) {
  warn_once(fmt::format("{} is not captured as a CUDA graph, and runs without one: {}", name, reason));
}

std::unique_ptr<GraphBackend> make_cuda_graph_backend() {
#if defined(DIFFUSERS_WITH_CUDA)
  return std::unique_ptr<GraphBackend>(
      cuda_function<decltype(diffusers_new_cuda_graph_backend)>("diffusers_new_cuda_graph_backend")());
#else
  return nullptr;
#endif
}

CapturedGraph::CapturedGraph(std::string name, std::unique_ptr<GraphBackend> backend,
                             std::vector<Generator> generators)
    : name_(std::move(name)), backend_(std::move(backend)), generators_(std::move(generators)) {
  if (backend_ == nullptr) give_up("the library was built without CUDA");
}

/// The function is executed from now on.
void CapturedGraph::give_up(const std::string& reason) {
  backend_.reset();
  warn_of_no_graph(name_, reason);
}

bool CapturedGraph::fits(const std::vector<Tensor>& inputs) const {
  if (inputs.size() != inputs_.size()) return false;
  for (std::size_t i = 0; i < inputs.size(); ++i)
    if (!has_options_of(inputs[i], inputs_[i])) return false;
  return true;
}

/// @return true if the graph can be replayed
bool CapturedGraph::capture(const std::vector<Tensor>& inputs, const Function& function) {
  inputs_.clear();
  for (const Tensor& input : inputs) inputs_.push_back(input.defined() ? input.detach().clone() : input);
  try {
    backend_->capture([&] { outputs_ = function(inputs_); }, generators_);
  } catch (const c10::Error& error) {
    give_up(error.what_without_backtrace());
  } catch (const std::exception& error) {
    give_up(error.what());
  }
  if (backend_ == nullptr) outputs_.clear();
  return is_captured_ = backend_ != nullptr;
}

std::vector<Tensor> CapturedGraph::run(const std::vector<Tensor>& inputs, const Function& function) {
  was_replayed_ = false;
  if (backend_ == nullptr) return function(inputs);
  if (is_captured_) {
    if (!fits(inputs)) return function(inputs);
  } else {
    if (!fits(inputs)) runs_ = 0;
    if (++runs_ <= kRunsBeforeCapture) {
      inputs_ = inputs;
      if (runs_ < kRunsBeforeCapture) return function(inputs);
      std::vector<Tensor> outputs;
      const std::string obstacle = backend_->run_and_observe([&] { outputs = function(inputs); });
      if (!obstacle.empty()) give_up(obstacle);
      return outputs;
    }
    if (!capture(inputs, function)) return function(inputs);
  }
  {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < inputs.size(); ++i)
      if (inputs[i].defined()) inputs_[i].copy_(inputs[i], /*non_blocking=*/true);
  }
  backend_->replay();
  was_replayed_ = true;
  return outputs_;
}

}  // namespace internal
}  // namespace diffusers
