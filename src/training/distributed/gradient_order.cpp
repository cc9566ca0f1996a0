#include "training/distributed/gradient_order.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/accumulate_grad.h>

namespace diffusers {
inline namespace internal {

std::vector<int64_t> order_of_gradients(const std::vector<Tensor>& parameters, const Tensor& loss) {
  using torch::autograd::AccumulateGrad;
  using torch::autograd::Node;
  std::unordered_map<const void*, uint64_t> first_uses;  // by parameter
  std::unordered_set<const Node*> seen;
  std::vector<const Node*> open{loss.grad_fn().get()};
  while (!open.empty()) {
    const Node* const node = open.back();
    open.pop_back();
    for (const torch::autograd::Edge& edge : node->next_edges()) {
      if (!edge.is_valid()) continue;
      if (const auto* const leaf = dynamic_cast<const AccumulateGrad*>(edge.function.get())) {
        uint64_t& use =
            first_uses.emplace(leaf->variable.unsafeGetTensorImpl(), node->sequence_nr()).first->second;
        use = std::min(use, node->sequence_nr());
      } else if (seen.insert(edge.function.get()).second) {
        open.push_back(edge.function.get());
      }
    }
  }
  const auto is_later = [&](int64_t first, int64_t second) {
    const auto use = [&](int64_t index) {
      const auto found = first_uses.find(parameters[static_cast<std::size_t>(index)].unsafeGetTensorImpl());
      return found == first_uses.end() ? std::optional<uint64_t>() : found->second;
    };
    return use(first) > use(second);
  };
  std::vector<int64_t> order(parameters.size());
  std::iota(order.rbegin(), order.rend(), 0);
  std::stable_sort(order.begin(), order.end(), is_later);
  return order;
}

}  // namespace internal
}  // namespace diffusers
