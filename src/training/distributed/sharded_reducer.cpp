#include "training/distributed/sharded_reducer.h"

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "core/require.h"
#include "training/distributed/gradient_order.h"
#include "training/distributed/process_group_state.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kShardExchange = "the exchange of gradients";
/// Buckets that were sent and are not freed yet.
constexpr std::size_t kMostReductions = 4;

}  // namespace

/// A bucket of gradients in a backward pass.
struct GradientBucket {
  ShardBucket content;
  Tensor flat;      // gradients of this process, then those that travel; undefined outside of its time
  Tensor sum;       // of the step so far, on the owner
  int64_t missing;  // parameters without a gradient yet
  c10::intrusive_ptr<c10d::Work> work;
};

/// The gradient of a parameter.
struct GradientSlot {
  std::size_t bucket = 0;
  int64_t begin = 0;  // in the bucket
  Tensor parameter;
  bool is_filled = false;  // in this backward pass
  bool was_used = false;   // in this step
};

struct ShardedReducer::State {
  ProcessGroup group;
  ParameterShards shards;
  std::vector<GradientBucket> buckets;
  std::vector<GradientSlot> slots;
  std::size_t next = 0;               // bucket that is sent next: all processes send them in the same order
  std::deque<std::size_t> under_way;  // buckets

  State(ProcessGroup group_of_training, const ParameterShards& owners)
      : group(std::move(group_of_training)), shards(owners) {}

  bool is_compressed() const { return group.options().gradient_compression == GradientCompression::kBf16; }
  Tensor part(const GradientSlot& slot) const {
    return part_of_flat(buckets[slot.bucket].flat, slot.begin, slot.parameter);
  }

  void make_buckets(const std::vector<Tensor>& parameters, const Tensor& loss);
  void begin();
  void take(GradientSlot& slot);
  void fill_rest();
  void send_complete();
  void send(std::size_t index);
  void finish_first();
  void give_gradients();
};

namespace {

using TakeGradient = std::function<void(GradientSlot& slot)>;

/// LibTorch calls it after the gradient of its parameter is complete.
struct SlotHook : torch::autograd::PostAccumulateGradHook {
  SlotHook(const TakeGradient& take, GradientSlot& slot,
           std::unique_ptr<torch::autograd::PostAccumulateGradHook> earlier)
      : take(take), slot(slot), earlier(std::move(earlier)) {}
  void operator()(const Tensor& parameter) override {
    if (earlier) (*earlier)(parameter);
    take(slot);
  }
  const TakeGradient& take;
  GradientSlot& slot;
  std::unique_ptr<torch::autograd::PostAccumulateGradHook> earlier;  // null: there was none
};

/// Hooks on the parameters until the scope ends.
class SlotHooks {
 public:
  /// @param take called with the slot of a gradient that is complete
  SlotHooks(std::vector<GradientSlot>& slots, TakeGradient take) : slots_(slots), take_(std::move(take)) {
    for (GradientSlot& slot : slots_) {
      auto earlier = std::move(torch::autograd::impl::post_acc_grad_hooks(slot.parameter));
      torch::autograd::impl::set_post_acc_grad_hooks(
          slot.parameter, std::make_unique<SlotHook>(take_, slot, std::move(earlier)));
    }
  }
  SlotHooks(const SlotHooks&) = delete;
  SlotHooks& operator=(const SlotHooks&) = delete;
  ~SlotHooks() {
    for (const GradientSlot& slot : slots_) {
      auto& hook = torch::autograd::impl::post_acc_grad_hooks(slot.parameter);
      auto earlier = std::move(static_cast<SlotHook&>(*hook).earlier);
      hook = std::move(earlier);
    }
  }

 private:
  std::vector<GradientSlot>& slots_;
  TakeGradient take_;
};

}  // namespace

/// At the first loss. All processes take the order of the last one, which has samples of every batch. A
/// bucket whose gradients come late would let those after it wait, which need memory.
void ShardedReducer::State::make_buckets(const std::vector<Tensor>& parameters, const Tensor& loss) {
  const Tensor order = at::tensor(order_of_gradients(parameters, loss), at::kLong);
  group.broadcast(order, group.world_size() - 1);
  const auto* const index = order.const_data_ptr<int64_t>();
  std::vector<Tensor> in_order;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    in_order.push_back(parameters[static_cast<std::size_t>(index[i])]);
  const auto cap = static_cast<int64_t>(group.options().bucket_cap_mb * 1024 * 1024);
  for (ShardBucket& content : shards.buckets(in_order, cap)) {
    int64_t begin = 0;
    for (const Tensor& parameter : content.parameters) {
      slots.push_back({buckets.size(), begin, parameter});
      begin += parameter.numel();
    }
    buckets.push_back({std::move(content), {}, {}, 0, {}});
  }
}

void ShardedReducer::State::begin() {
  next = 0;
  for (GradientBucket& bucket : buckets)
    bucket.missing = static_cast<int64_t>(bucket.content.parameters.size());
  for (GradientSlot& slot : slots) slot.is_filled = false;
}

/// Moves a gradient into its bucket.
void ShardedReducer::State::take(GradientSlot& slot) {
  const at::NoGradGuard no_grad;
  require<ConfigError>(!slot.is_filled,
                       "zero_stage is 2, but the gradient of a parameter {} is completed twice in a backward "
                       "pass, as by a backward pass within it; set it to 1",
                       describe(slot.parameter));
  GradientBucket& bucket = buckets[slot.bucket];
  if (!bucket.flat.defined()) bucket.flat = at::empty({bucket.content.numel}, slot.parameter.options());
  part(slot).copy_(slot.parameter.grad());
  slot.parameter.mutable_grad().reset();
  slot.is_filled = true;
  slot.was_used = true;
  --bucket.missing;
  send_complete();
}

/// After the backward pass.
void ShardedReducer::State::fill_rest() {
  for (const GradientSlot& slot : slots) {
    if (slot.is_filled) continue;
    require<ConfigError>(group.options().find_unused_parameters,
                         "some of the {} trained parameters got no gradient, so that the processes cannot "
                         "exchange them; set find_unused_parameters to true, or freeze these parameters",
                         slots.size());
    GradientBucket& bucket = buckets[slot.bucket];
    if (!bucket.flat.defined()) bucket.flat = at::empty({bucket.content.numel}, slot.parameter.options());
    part(slot).zero_();
    --bucket.missing;
  }
  send_complete();
  while (!under_way.empty()) finish_first();
}

void ShardedReducer::State::send_complete() {
  for (; next < buckets.size() && buckets[next].missing == 0; ++next) send(next);
}

void ShardedReducer::State::send(std::size_t index) {
  if (under_way.size() == kMostReductions) finish_first();
  GradientBucket& bucket = buckets[index];
  if (is_compressed()) bucket.flat = bucket.flat.to(at::kBFloat16);
  group.state()->exchange(kShardExchange, [&](c10d::ProcessGroup& processes) {
    std::vector<Tensor> tensors{bucket.flat};
    c10d::ReduceOptions options;
    options.rootRank = bucket.content.owner;
    bucket.work = processes.reduce(tensors, options);
  });
  under_way.push_back(index);
}

/// Waits for the bucket that was sent first.
void ShardedReducer::State::finish_first() {
  GradientBucket& bucket = buckets[under_way.front()];
  group.state()->exchange(kShardExchange, [&](c10d::ProcessGroup&) { bucket.work->wait(); });
  if (bucket.content.owner == group.rank()) {
    const Tensor flat = bucket.flat.to(bucket.content.parameters.front().scalar_type());
    if (bucket.sum.defined()) {
      bucket.sum.add_(flat);
    } else {
      bucket.sum = flat;
    }
  }
  bucket.flat.reset();
  bucket.work.reset();
  under_way.pop_front();
}

/// After the last loss of a step.
void ShardedReducer::State::give_gradients() {
  std::vector<int64_t> used;
  for (GradientSlot& slot : slots) used.push_back(std::exchange(slot.was_used, false) ? 1 : 0);
  // A parameter that no process has used has no gradient, and the optimizer leaves it as it is.
  const Tensor counts = at::tensor(used, at::kLong);
  if (group.options().find_unused_parameters) group.all_reduce(counts);
  const auto* const count = counts.const_data_ptr<int64_t>();
  for (std::size_t i = 0; i < slots.size(); ++i) {
    const GradientSlot& slot = slots[i];
    const Tensor& sum = buckets[slot.bucket].sum;
    if (sum.defined() && count[i] > 0)
      slot.parameter.mutable_grad() = part_of_flat(sum, slot.begin, slot.parameter);
  }
  for (GradientBucket& bucket : buckets) bucket.sum.reset();
}

ShardedReducer::ShardedReducer(const std::vector<Tensor>& parameters, const ParameterShards& shards,
                               ProcessGroup group)
    : GradientExchange(parameters), state_(std::make_unique<State>(std::move(group), shards)) {}

ShardedReducer::~ShardedReducer() = default;

void ShardedReducer::backward(const Tensor& loss, bool is_last) {
  State& state = *state_;
  if (state.buckets.empty()) state.make_buckets(parameters(), loss);
  state.begin();
  try {
    const SlotHooks hooks(state.slots, [&state](GradientSlot& slot) { state.take(slot); });
    loss.backward();
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    state.group.state()->check_for_exchange(kShardExchange, error);
    throw;
  }
  const at::NoGradGuard no_grad;
  state.fill_rest();
  if (is_last) state.give_gradients();
}

}  // namespace internal
}  // namespace diffusers
