#include "training/distributed/shard_transfer.h"

#include <deque>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "training/distributed/process_group_state.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kParameterExchange = "the exchange of parameters";
constexpr const char* kStateTransfer = "a transfer of the state of the training";
/// More buckets need more memory, and fewer let the network wait.
constexpr std::size_t kMostBroadcasts = 4;

/// The broadcast of a bucket.
struct Broadcast {
  const ShardBucket* bucket;
  Tensor flat;
  bool is_copy;  // of the parameters; false: `flat` is the only one
  c10::intrusive_ptr<c10d::Work> work;
};

/// Calls `visit` with each parameter of a bucket and its part of a flat tensor.
template <class F>
void for_each_part(const ShardBucket& bucket, const Tensor& flat, F visit) {
  int64_t begin = 0;
  for (const Tensor& parameter : bucket.parameters) {
    visit(parameter.detach(), part_of_flat(flat, begin, parameter));
    begin += parameter.numel();
  }
}

Broadcast begin_broadcast(const ProcessGroup& group, const ShardBucket& bucket) {
  const Tensor& first = bucket.parameters.front();
  const bool is_copy = bucket.parameters.size() > 1 || !first.is_contiguous();
  const Tensor flat = is_copy ? at::empty({bucket.numel}, first.options()) : first.detach().view({-1});
  if (is_copy && bucket.owner == group.rank())
    for_each_part(bucket, flat, [](const Tensor& parameter, const Tensor& part) { part.copy_(parameter); });
  Broadcast broadcast{&bucket, flat, is_copy, {}};
  group.state()->exchange(kParameterExchange, [&](c10d::ProcessGroup& processes) {
    std::vector<Tensor> tensors{flat.view(at::kByte)};
    c10d::BroadcastOptions options;
    options.rootRank = bucket.owner;
    broadcast.work = processes.broadcast(tensors, options);
  });
  return broadcast;
}

void finish_broadcast(const ProcessGroup& group, const Broadcast& broadcast) {
  group.state()->exchange(kParameterExchange, [&](c10d::ProcessGroup&) { broadcast.work->wait(); });
  if (broadcast.is_copy && broadcast.bucket->owner != group.rank())
    for_each_part(*broadcast.bucket, broadcast.flat,
                  [](const Tensor& parameter, const Tensor& part) { parameter.copy_(part); });
}

}  // namespace

void broadcast_from_owners(const ProcessGroup& group, const std::vector<ShardBucket>& buckets) {
  const at::NoGradGuard no_grad;
  std::deque<Broadcast> under_way;
  for (const ShardBucket& bucket : buckets) {
    if (bucket.numel == 0) continue;
    if (under_way.size() == kMostBroadcasts) {
      finish_broadcast(group, under_way.front());
      under_way.pop_front();
    }
    under_way.push_back(begin_broadcast(group, bucket));
  }
  for (const Broadcast& broadcast : under_way) finish_broadcast(group, broadcast);
}

void send_tensor(const ProcessGroup& group, const Tensor& tensor, int64_t to) {
  if (tensor.numel() == 0) return;
  const at::NoGradGuard no_grad;
  group.state()->exchange(kStateTransfer, [&](c10d::ProcessGroup& processes) {
    std::vector<Tensor> tensors{tensor.detach().cpu().contiguous().flatten().view(at::kByte)};
    processes.send(tensors, static_cast<int>(to), 0)->wait();
  });
}

Tensor receive_tensor(const ProcessGroup& group, const std::vector<int64_t>& sizes, at::ScalarType dtype,
                      int64_t from) {
  Tensor tensor = at::empty(sizes, dtype);
  if (tensor.numel() == 0) return tensor;
  group.state()->exchange(kStateTransfer, [&](c10d::ProcessGroup& processes) {
    std::vector<Tensor> tensors{tensor.flatten().view(at::kByte)};
    processes.recv(tensors, static_cast<int>(from), 0)->wait();
  });
  return tensor;
}

}  // namespace internal
}  // namespace diffusers
