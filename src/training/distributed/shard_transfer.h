#pragma once

// Transfers between the owners of parameters and other processes.

#include <cstdint>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/process_group.h>

#include "training/distributed/parameter_shards.h"

namespace diffusers {
inline namespace internal {

/// Replaces the parameters of each bucket by those of their owner, with one broadcast for each bucket. All
/// processes call it with the same buckets.
/// @throws Error if a process has ended or does not answer within the timeout
void broadcast_from_owners(const ProcessGroup& group, const std::vector<ShardBucket>& buckets);

/// Sends a tensor to one process, which must call `receive_tensor`. It travels by way of the CPU.
/// @param to rank of that process
/// @throws Error if the process has ended or does not answer within the timeout
void send_tensor(const ProcessGroup& group, const Tensor& tensor, int64_t to);
/// Receives a tensor of one process.
/// @param sizes shape of the tensor
/// @param dtype dtype of the tensor
/// @param from rank of that process
/// @return the tensor, on the CPU
/// @throws Error if the process has ended or does not answer within the timeout
Tensor receive_tensor(const ProcessGroup& group, const std::vector<int64_t>& sizes, at::ScalarType dtype,
                      int64_t from);

}  // namespace internal
}  // namespace diffusers
