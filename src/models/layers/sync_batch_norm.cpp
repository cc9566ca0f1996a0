#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/models/sync_batch_norm.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/require.h"
#include "models/layers/joined_batch.h"

namespace diffusers {
namespace {

constexpr const char* kNormName = "SyncBatchNorm2d";

/// The batch of a norm, from the forward to the backward pass.
struct NormedBatch : torch::CustomClassHolder {
  std::shared_ptr<const JoinedBatch> batch;
};

/// One number for each channel as `[1, C, 1, 1]`.
Tensor by_channel(const Tensor& numbers) { return numbers.view({1, -1, 1, 1}); }

/// (input - mean) * inverse_std. In the backward pass mean and standard deviation depend on the samples of
/// all processes.
struct JoinedNorm : torch::autograd::Function<JoinedNorm> {
  /// @param mean `[C]`
  /// @param inverse_std `[C]`
  /// @param count 0-dim
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& input, const Tensor& mean,
                        const Tensor& inverse_std, const Tensor& count,
                        const c10::intrusive_ptr<NormedBatch>& normed) {
    Tensor output = (input - by_channel(mean)) * by_channel(inverse_std);
    context->save_for_backward({output, inverse_std, count});
    context->saved_data["batch"] = c10::IValue::make_capsule(normed);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    require<Error>(!at::GradMode::is_enabled(),
                   "SyncBatchNorm2d does not support a gradient of a gradient with several processes");
    const auto saved = context->get_saved_variables();
    const Tensor& output = saved[0];
    const Tensor& grad = grad_outputs[0];
    const auto capsule = context->saved_data["batch"].toCapsule();
    const JoinedBatch& batch = *static_cast<NormedBatch&>(*capsule).batch;
    const std::vector<int64_t> dims{0, 2, 3};
    const Tensor own = at::stack({grad.sum(dims), (grad * output).sum(dims)}).to(at::kDouble);
    const Tensor means = (batch.sum(own) / saved[2]).to(output.scalar_type());
    // The sample of a stand-in is in no statistics, so that its gradient would be without effect.
    Tensor result = batch.is_stand_in() ? at::zeros_like(grad)
                                        : by_channel(saved[1]) *
                                              (grad - by_channel(means[0]) - output * by_channel(means[1]));
    return {result, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

void SyncBatchNorm2dImpl::_check_input_dim(const Tensor& input) {
  require<TensorError>(input.defined() && input.dim() == 4 && input.size(1) == options.num_features(),
                       "{}: the input is {}, expected [B, {}, H, W]", kNormName, describe(input),
                       options.num_features());
}

Tensor SyncBatchNorm2dImpl::forward(const Tensor& input) {
  const std::shared_ptr<const JoinedBatch> batch = JoinedBatch::current();
  if (batch == nullptr || !is_training()) return BatchNormImplBase::forward(input);
  _check_input_dim(input);
  const auto [count, mean, variance] = joined_moments(kNormName, input, *batch);
  if (options.track_running_stats()) update_running_statistics(count, mean, variance);

  const at::ScalarType dtype = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto normed = c10::make_intrusive<NormedBatch>();
  normed->batch = batch;
  Tensor output = JoinedNorm::apply(input.to(dtype), mean.to(dtype),
                                    (variance + options.eps()).rsqrt().to(dtype), count, normed);
  if (options.affine()) output = output * by_channel(weight.to(dtype)) + by_channel(bias.to(dtype));
  return output.to(input.scalar_type());
}

void SyncBatchNorm2dImpl::update_running_statistics(const Tensor& count, const Tensor& mean,
                                                    const Tensor& variance) {
  const at::NoGradGuard no_grad;
  num_batches_tracked += 1;
  const double momentum = options.momentum() ? *options.momentum()
                                             : 1.0 / static_cast<double>(num_batches_tracked.item<int64_t>());
  const auto move = [momentum](const Tensor& running, const Tensor& value) {
    running.copy_(running.to(at::kDouble) * (1 - momentum) + value * momentum);
  };
  move(running_mean, mean);
  move(running_var, variance * (count / (count - 1)));
}

void SyncBatchNorm2dImpl::pretty_print(std::ostream& stream) const {
  stream << "diffusers::" << kNormName << "(" << options.num_features() << ", eps=" << options.eps() << ")";
}

}  // namespace diffusers
