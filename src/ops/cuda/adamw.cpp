#include "ops/cuda/adamw.h"

#include <ATen/ATen.h>

#include "ops/cuda/adamw_tensors.h"
#include "ops/cuda/tensor_arguments.h"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

constexpr int64_t kFactorFloats = sizeof(AdamWFactors) / sizeof(float);

/// Calls launch(table) for tables of the tensors with indices 0 to count - 1 that are not empty.
/// @param add add(table, i) adds tensor i
template <class Add, class Launch>
void for_each_table(std::size_t count, const Add& add, const Launch& launch) {
  TensorTable table;
  for (std::size_t i = 0; i < count; ++i) {
    add(table, i);
    if (!table.is_full() && i + 1 < count) continue;
    if (table.count > 0) launch(table);
    table.count = 0;
    table.chunks = 0;
  }
}

int64_t chunks_of(const std::vector<at::Tensor>& tensors) {
  int64_t chunks = 0;
  for (const at::Tensor& tensor : tensors) chunks += divide_up(tensor.numel(), kChunk);
  return chunks;
}

}  // namespace

at::Tensor run_gradient_norm(const std::vector<at::Tensor>& grads, const at::Tensor& scale, double max_norm) {
  const c10::cuda::CUDAGuard guard(grads.front().device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const auto options = grads.front().options().memory_format(at::MemoryFormat::Contiguous);
  static_assert(sizeof(GradientNorm) == 2 * sizeof(float) && sizeof(GradientOutcome) == 3 * sizeof(float));
  const int64_t chunks = chunks_of(grads);
  const at::Tensor partial = at::empty({chunks, 2}, options);
  at::Tensor outcome = at::empty({3}, options);
  const float* scale_pointer = scale.defined() ? scale.const_data_ptr<float>() : nullptr;
  auto* norms = reinterpret_cast<GradientNorm*>(partial.mutable_data_ptr<float>());
  int64_t done = 0;
  for_each_table(
      grads.size(),
      [&](TensorTable& table, std::size_t i) {
        if (grads[i].numel() > 0) table.grad[table.add(grads[i].numel())] = grads[i].const_data_ptr<float>();
      },
      [&](const TensorTable& table) {
        check_launch(gradient_norms(table, scale_pointer, norms + done, stream), "clip_grad_norm_");
        done += table.chunks;
      });
  check_launch(
      finish_gradient_norm(norms, chunks, scale_pointer, static_cast<float>(max_norm),
                           reinterpret_cast<GradientOutcome*>(outcome.mutable_data_ptr<float>()), stream),
      "clip_grad_norm_");
  return outcome;
}

void run_adamw(const AdamWTensors& tensors, const AdamWOptions& options, const at::Tensor& learning_rate,
               const at::Tensor& outcome, const at::Tensor& skip) {
  const c10::cuda::CUDAGuard guard(outcome.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  const at::Tensor factors = at::empty({kMostTensors, kFactorFloats}, outcome.options());
  const double* rate = learning_rate.defined() ? learning_rate.const_data_ptr<double>() : nullptr;
  for_each_table(
      tensors.params.size(),
      [&](TensorTable& table, std::size_t i) {
        if (tensors.params[i].numel() == 0) return;
        const int at = table.add(tensors.params[i].numel());
        table.param[at] = tensors.params[i].mutable_data_ptr<float>();
        table.grad[at] = tensors.grads[i].const_data_ptr<float>();
        table.exp_avg[at] = tensors.exp_avgs[i].mutable_data_ptr<float>();
        table.exp_avg_sq[at] = tensors.exp_avg_sqs[i].mutable_data_ptr<float>();
        table.step[at] = tensors.steps[i].mutable_data_ptr<float>();
        const bool has_average = !tensors.averages.empty() && tensors.averages[i].defined();
        table.average[at] = has_average ? tensors.averages[i].mutable_data_ptr<float>() : nullptr;
      },
      [&](const TensorTable& table) {
        check_launch(adamw_step(table, options, rate,
                                reinterpret_cast<const GradientOutcome*>(outcome.const_data_ptr<float>()),
                                skip.const_data_ptr<float>(),
                                reinterpret_cast<AdamWFactors*>(factors.mutable_data_ptr<float>()), stream),
                     "Optimizer::step");
      });
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
