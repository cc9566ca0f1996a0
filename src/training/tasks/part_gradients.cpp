#include "training/tasks/part_gradients.h"

#include <atomic>
#include <utility>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/graph_task.h>
#include <torch/csrc/autograd/variable.h>

namespace diffusers {
inline namespace internal {
namespace {

/// The part whose backward pass runs on this thread.
struct RunningPart {
  const PartGradients* owner = nullptr;
  std::size_t part = 0;
  int graph_task = -1;  // of the pass; passes within it, as of gradient checkpointing, have others
};
thread_local RunningPart running_part;

class RunningPartScope {
 public:
  explicit RunningPartScope(const RunningPart& part) : before_(std::exchange(running_part, part)) {}
  RunningPartScope(const RunningPartScope&) = delete;
  RunningPartScope& operator=(const RunningPartScope&) = delete;
  ~RunningPartScope() { running_part = before_; }

 private:
  RunningPart before_;
};

/// Returns true if nothing else refers to the memory of a gradient.
bool is_sole_owner(const Tensor& grad) {
  if (grad.use_count() != 1 || grad.storage().use_count() != 1 || !grad.is_non_overlapping_and_dense())
    return false;
  // Another thread may have read it before it gave up its reference.
  std::atomic_thread_fence(std::memory_order_acquire);
  return true;
}

/// Removes a hook and its place in the list, which `remove_hook` leaves.
void remove_hook(const Tensor& parameter, unsigned position) {
  parameter.remove_hook(position);
  auto& hooks = *torch::autograd::impl::get_autograd_meta(parameter)->cpp_hooks_list_;
  while (!hooks.empty() && !hooks.back()) hooks.pop_back();
}

}  // namespace

PartGradients::PartGradients(const std::vector<Tensor>& parameters, std::size_t parts)
    : parameters_(parameters), sums_(parameters.size()) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    sums_[i].has_part.resize(parts);
    sums_[i].waiting.resize(parts);
    hooks_.push_back(
        parameters_[i].register_hook([this, i](const Tensor& grad) { return on_gradient(i, grad); }));
  }
}

PartGradients::~PartGradients() {
  for (std::size_t i = 0; i < hooks_.size(); ++i) remove_hook(parameters_[i], hooks_[i]);
}

/// Takes the gradient of a parameter. LibTorch keeps a tensor without memory in its place until the pass
/// ends.
/// @return the tensor to keep; undefined: the gradient
Tensor PartGradients::on_gradient(std::size_t parameter, const Tensor& grad) {
  const RunningPart& running = running_part;
  if (running.owner != this || running.graph_task != torch::autograd::get_current_graph_task_id()) return {};
  if (grad.layout() != at::kStrided) return {};
  give(parameter, running.part, grad);
  return at::zeros({}, grad.options()).expand(grad.sizes());
}

std::vector<Tensor> PartGradients::backward(std::size_t part, Tensor& output, const Tensor& grad,
                                            const std::vector<Tensor>& inputs) {
  std::vector<Tensor> wanted = parameters_;
  wanted.insert(wanted.end(), inputs.begin(), inputs.end());
  std::vector<Tensor> found;
  {
    const RunningPartScope scope({.owner = this, .part = part});
    output.register_hook(
        [](const Tensor&) { running_part.graph_task = torch::autograd::get_current_graph_task_id(); });
    found = torch::autograd::grad({output}, wanted, {grad}, /*retain_graph=*/false, /*create_graph=*/false,
                                  /*allow_unused=*/true);
  }
  output.reset();
  for (std::size_t i = 0; i < parameters_.size(); ++i) give(i, part, std::exchange(found[i], Tensor()));
  found.erase(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(parameters_.size()));
  return found;
}

void PartGradients::skip(std::size_t part) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) give(i, part, {});
}

void PartGradients::give(std::size_t parameter, std::size_t part, Tensor grad) {
  Sum& sum = sums_[parameter];
  const std::lock_guard<std::mutex> lock(sum.mutex);
  if (sum.has_part[part]) return;  // the hook has given it
  sum.has_part[part] = true;
  sum.waiting[part] = std::move(grad);
  for (; sum.next < sum.waiting.size() && sum.has_part[sum.next]; ++sum.next) {
    Tensor next = std::exchange(sum.waiting[sum.next], Tensor());
    if (!next.defined()) continue;
    if (!sum.total.defined()) {
      sum.total = std::move(next);
    } else if (is_sole_owner(sum.total)) {
      sum.total.add_(next);
    } else {
      sum.total = sum.total + next;
    }
  }
}

}  // namespace internal
}  // namespace diffusers
