#include "data/epoch_plan.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "data/transforms.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Fisher-Yates shuffle. The library has its own, so that a new version of LibTorch does not change the order
/// of a resumed training.
std::vector<int64_t> sample_order(int64_t size, std::optional<uint64_t> seed) {
  std::vector<int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!seed) return order;
  ExampleRandom random(*seed, 0);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::size_t>(random.below(static_cast<int64_t>(i)))]);
  return order;
}

}  // namespace

int64_t planned_batches(const EpochSamples& samples) {
  std::map<int64_t, int64_t> sizes;
  for (const int64_t bucket : samples.buckets) ++sizes[bucket];
  if (samples.buckets.empty()) sizes[0] = samples.size;
  int64_t batches = 0;
  for (const auto& [bucket, size] : sizes)
    batches += size / samples.batch_size + (!samples.drop_last && size % samples.batch_size != 0 ? 1 : 0);
  return batches;
}

EpochPlan plan_epoch(const EpochSamples& samples, std::optional<uint64_t> order_seed) {
  const std::vector<int64_t> order = sample_order(samples.size, order_seed);
  EpochPlan plan;
  plan.order.reserve(order.size());
  plan.starts.push_back(0);
  const auto add_batch = [&](const std::vector<int64_t>& batch) {
    plan.order.insert(plan.order.end(), batch.begin(), batch.end());
    plan.starts.push_back(plan.order.size());
  };
  std::map<int64_t, std::vector<int64_t>> filling;
  for (const int64_t index : order) {
    const int64_t bucket = samples.buckets.empty() ? 0 : samples.buckets[static_cast<std::size_t>(index)];
    std::vector<int64_t>& batch = filling[bucket];
    batch.push_back(index);
    if (static_cast<int64_t>(batch.size()) < samples.batch_size) continue;
    add_batch(batch);
    batch.clear();
  }
  if (!samples.drop_last)
    for (const auto& [bucket, batch] : filling)
      if (!batch.empty()) add_batch(batch);
  return plan;
}

}  // namespace internal
}  // namespace diffusers
