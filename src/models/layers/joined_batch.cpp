#include "models/layers/joined_batch.h"

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include <diffusers/models/sync_batch_norm.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

std::shared_ptr<const JoinedBatch>& current_batch() {
  thread_local std::shared_ptr<const JoinedBatch> batch;
  return batch;
}

}  // namespace

std::shared_ptr<const JoinedBatch> JoinedBatch::current() { return current_batch(); }

Tensor JoinedBatch::sum(const Tensor& own) const {
  const at::NoGradGuard no_grad;
  Tensor total = is_stand_in() ? at::zeros_like(own, at::MemoryFormat::Contiguous)
                               : own.detach().clone(at::MemoryFormat::Contiguous);
  all_reduce_(total);
  return total;
}

JoinedBatchScope::JoinedBatchScope(std::shared_ptr<const JoinedBatch> batch)
    : before_(std::exchange(current_batch(), std::move(batch))) {}

JoinedBatchScope::~JoinedBatchScope() { current_batch() = std::move(before_); }

JoinedMoments joined_moments(const char* what, const Tensor& input, const JoinedBatch& batch) {
  const at::NoGradGuard no_grad;
  const int64_t channels = input.size(1);
  const int64_t positions = input.numel() / channels;
  const auto own_count = static_cast<double>(positions);
  require<TensorError>(batch.is_stand_in() || std::llround(own_count / batch.share()) > 1,
                       "{}: the input is {} in all processes together, expected more than 1 value in each "
                       "channel in train mode",
                       what, describe(input));
  // Each process sends its exact moments in float64, so that the variance needs no second exchange.
  const Tensor rows = input.detach().transpose(0, 1).flatten(1);
  const bool is_double = rows.scalar_type() == at::kDouble;
  const auto [own_variance, own_mean] = at::var_mean(
      is_double ? rows : rows.to(at::kFloat), at::IntArrayRef{1}, /*unbiased=*/false, /*keepdim=*/false);
  const Tensor mean = own_mean.to(at::kDouble);
  const Tensor square = own_variance.to(at::kDouble) + mean.square();
  const Tensor total =
      batch.sum(at::cat({at::full({1}, own_count, mean.options()), own_count * mean, own_count * square}));
  JoinedMoments moments;
  moments.count = total[0];
  moments.mean = total.slice(0, 1, 1 + channels) / moments.count;
  moments.variance = (total.slice(0, 1 + channels) / moments.count - moments.mean.square()).clamp_min(0);
  return moments;
}

bool has_local_batch_statistics(const torch::nn::Module& model) {
  for (const auto& module : model.modules())
    if (module->named_buffers(/*recurse=*/false).contains("running_mean") &&
        std::dynamic_pointer_cast<SyncBatchNorm2dImpl>(module) == nullptr)
      return true;
  return false;
}

}  // namespace internal
}  // namespace diffusers
