#include <cmath>

#include <diffusers/core/error.h>
#include <diffusers/core/tensor.h>
#include <diffusers/ops/attention.h>
#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/CPUAllocator.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/parallel.h"
#include "core/require.h"
#include "ops/cpu/kernels.h"
#include "ops/reference.h"

namespace diffusers {
namespace {

/// Returns true for the sizes at which benchmarks/ops_benchmark.cpp measured this library's kernel as faster
/// than LibTorch's: up to three times at depth 8, equal at depth 32 with 256 keys.
bool is_small(int64_t depth, int64_t keys) {
  return depth <= cpu::kMaxAttentionDepth && keys <= (depth <= 16 ? 1024 : 256);
}

void check_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options) {
  const auto is_heads = [](const at::Tensor& tensor) {
    return tensor.defined() && at::isFloatingType(tensor.scalar_type()) && tensor.dim() == 4;
  };
  require<TensorError>(
      is_heads(query) && is_heads(key) && is_heads(value),
      "attention: query, key and value must be floating tensors [B, heads, length, D], got {}, {} and {}",
      describe(query), describe(key), describe(value));
  const bool autocast = at::autocast::is_autocast_enabled(query.device().type());
  const auto same_kind = [&](const at::Tensor& tensor) {
    return tensor.device() == query.device() && (autocast || tensor.scalar_type() == query.scalar_type());
  };
  require<TensorError>(same_kind(key) && same_kind(value),
                       "attention: query, key and value must share dtype and device, got {}, {} and {}",
                       describe(query), describe(key), describe(value));
  const bool shapes_fit = key.sizes().slice(0, 2) == query.sizes().slice(0, 2) &&
                          key.size(3) == query.size(3) &&
                          value.sizes().slice(0, 3) == key.sizes().slice(0, 3);
  require<TensorError>(
      shapes_fit,
      "attention: expected query [B, heads, L, D], key [B, heads, S, D] and value [B, heads, S, E], got "
      "{}, {} and {}",
      shape_string(query.sizes()), shape_string(key.sizes()), shape_string(value.sizes()));
  require<TensorError>(query.size(3) > 0 && key.size(2) > 0,
                       "attention: head size and number of keys must not be 0, got query {} and key {}",
                       shape_string(query.sizes()), shape_string(key.sizes()));
  require<TensorError>(!options.scale || std::isfinite(*options.scale),
                       "attention: scale = {}, expected a finite number", options.scale.value_or(0));
  if (!options.mask.defined()) return;
  require<TensorError>(!options.is_causal,
                       "attention: is_causal and a mask {} were both given, expected one of them",
                       describe(options.mask));
  const auto dtype = options.mask.scalar_type();
  require<TensorError>(
      options.mask.device() == query.device() &&
          (dtype == at::kBool || dtype == query.scalar_type() || (autocast && at::isFloatingType(dtype))),
      "attention: mask must be boolean or of the query's dtype, and on its device; got mask {} and query {}",
      describe(options.mask), describe(query));
  const int64_t scores[] = {query.size(0), query.size(1), query.size(2), key.size(2)};
  require<TensorError>(at::is_expandable_to(options.mask.sizes(), scores) && options.mask.dim() >= 2,
                       "attention: mask {} does not broadcast to the scores {}",
                       shape_string(options.mask.sizes()), shape_string(scores));
}

/// Allocates a `[B, heads, L, D]` tensor with the memory layout `[B, L, heads, D]` of a projected query, so
/// that joining the heads needs no copy.
at::Tensor empty_heads(const at::Tensor& like) {
  const int64_t heads = like.size(1);
  const int64_t length = like.size(2);
  const int64_t depth = like.size(3);
  return at::empty_strided(like.sizes(), {length * heads * depth, depth, heads * depth, 1}, like.options());
}

cpu::HeadsView<const float> heads_view(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<float>(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

cpu::HeadsView<float> mutable_heads_view(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

cpu::AttentionShape attention_shape(const at::Tensor& query, const at::Tensor& key, double scale) {
  return {.heads = query.size(1),
          .queries = query.size(2),
          .keys = key.size(2),
          .depth = query.size(3),
          .scale = static_cast<float>(scale)};
}

/// Calls run(scratch, begin, end) for parts of the batch * heads items, in parallel.
template <class Run>
void for_each_head(const at::Tensor& query, const cpu::AttentionShape& shape, const Run& run) {
  parallel_for(0, query.size(0) * query.size(1), 1, [&](int64_t begin, int64_t end) {
    const auto bytes = static_cast<std::size_t>(cpu::attention_scratch(shape)) * sizeof(float);
    const auto scratch = c10::GetCPUAllocator()->allocate(bytes);
    run(static_cast<float*>(scratch.get()), begin, end);
  });
}

struct AttentionResult {
  at::Tensor output;
  at::Tensor log_sum;
};

AttentionResult fused_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                                double scale) {
  const auto shape = attention_shape(query, key, scale);
  AttentionResult result{empty_heads(query), at::empty(query.sizes().slice(0, 3), query.options())};
  const cpu::AttentionInputs inputs{heads_view(query), heads_view(key), heads_view(value)};
  const auto output = mutable_heads_view(result.output);
  auto* log_sum = result.log_sum.mutable_data_ptr<float>();
  for_each_head(query, shape, [&](float* scratch, int64_t begin, int64_t end) {
    cpu::attention_forward(shape, inputs, output, log_sum, scratch, begin, end);
  });
  return result;
}

struct QueryKeyValue {
  at::Tensor query, key, value;
};

QueryKeyValue fused_attention_backward(const at::Tensor& grad_output, const at::Tensor& query,
                                       const at::Tensor& key, const at::Tensor& value,
                                       const at::Tensor& output, const at::Tensor& log_sum, double scale) {
  const auto shape = attention_shape(query, key, scale);
  const at::Tensor grad = grad_output.stride(3) == 1 ? grad_output : grad_output.contiguous();
  QueryKeyValue result{empty_heads(query), empty_heads(key), empty_heads(value)};
  const cpu::AttentionInputs inputs{heads_view(query), heads_view(key), heads_view(value)};
  const cpu::AttentionGradients gradients{mutable_heads_view(result.query), mutable_heads_view(result.key),
                                          mutable_heads_view(result.value)};
  const auto outputs = heads_view(output);
  const auto grads = heads_view(grad);
  const auto* log_sums = log_sum.const_data_ptr<float>();
  for_each_head(query, shape, [&](float* scratch, int64_t begin, int64_t end) {
    cpu::attention_backward(shape, inputs, outputs, grads, log_sums, gradients, scratch, begin, end);
  });
  return result;
}

/// Computes the gradients with differentiable operations, for second derivatives.
QueryKeyValue composed_attention_backward(const at::Tensor& grad_output, const at::Tensor& query,
                                          const at::Tensor& key, const at::Tensor& value, double scale) {
  const at::Tensor weights = at::softmax(at::matmul(query, key.transpose(-2, -1)) * scale, -1);
  const at::Tensor grad_weights = at::matmul(grad_output, value.transpose(-2, -1));
  const at::Tensor grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, true)) * scale;
  return {at::matmul(grad_scores, key), at::matmul(grad_scores.transpose(-2, -1), query),
          at::matmul(weights.transpose(-2, -1), grad_output)};
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& query,
                            const at::Tensor& key, const at::Tensor& value, double scale) {
    const auto result = fused_attention(query, key, value, scale);
    context->save_for_backward({query, key, value, result.output, result.log_sum});
    context->saved_data["scale"] = scale;
    return result.output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grad_outputs) {
    const auto saved = context->get_saved_variables();
    const double scale = context->saved_data["scale"].toDouble();
    const auto gradients =
        at::GradMode::is_enabled()
            ? composed_attention_backward(grad_outputs[0], saved[0], saved[1], saved[2], scale)
            : fused_attention_backward(grad_outputs[0], saved[0], saved[1], saved[2], saved[3], saved[4],
                                       scale);
    return {gradients.query, gradients.key, gradients.value, at::Tensor()};
  }
};

bool fits_fused_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                          const AttentionOptions& options) {
  const auto plain = [](const at::Tensor& tensor) {
    return tensor.is_cpu() && tensor.scalar_type() == at::kFloat && tensor.layout() == at::kStrided &&
           tensor.stride(3) == 1;
  };
  return fused_cpu() && cpu::kernels_available() && !options.mask.defined() && !options.is_causal &&
         plain(query) && plain(key) && plain(value) && query.numel() > 0 && query.size(3) == value.size(3) &&
         is_small(query.size(3), key.size(2)) && !at::autocast::is_autocast_enabled(at::kCPU);
}

}  // namespace

inline namespace internal {
namespace reference {

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options) {
  const std::optional<at::Tensor> mask = options.mask.defined() ? std::optional(options.mask) : std::nullopt;
  return at::scaled_dot_product_attention(query, key, value, mask, /*dropout_p=*/0.0, options.is_causal,
                                          options.scale);
}

}  // namespace reference
}  // namespace internal

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options) {
  check_attention(query, key, value, options);
  if (!fits_fused_attention(query, key, value, options))
    return reference::attention(query, key, value, options);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(query.size(3))));
  const bool tracked =
      at::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad());
  if (!tracked) return fused_attention(query, key, value, scale).output;
  return AttentionFunction::apply(query, key, value, scale);
}

}  // namespace diffusers
