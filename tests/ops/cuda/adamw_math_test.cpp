// The arithmetic and the division of work of the multi-tensor optimizer step, run on the host.

#include "ops/cuda/adamw_math.h"

#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include <diffusers/core/random.h>

#include <ATen/core/grad_mode.h>

#include "ops/cuda/simulated_device.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using cuda::AdamWElement;
using cuda::AdamWFactors;
using cuda::AdamWOptions;
using cuda::GradientNorm;
using cuda::kChunk;
using cuda::TensorChunk;
using cuda::TensorTable;
using testing::combine_over_threads;
using testing::Coverage;

const std::vector<int64_t> kSizes{1, 3, kChunk, kChunk + 1, 5 * kChunk - 2, 7, 255};

struct OptimizerTensors {
  std::vector<at::Tensor> params, grads, exp_avgs, exp_avg_sqs, steps, averages;
};

OptimizerTensors make_tensors() {
  manual_seed(4);
  OptimizerTensors tensors;
  for (const int64_t size : kSizes) {
    tensors.params.push_back(testing::normal({size}));
    tensors.grads.push_back(testing::normal({size}) * 100);
    tensors.exp_avgs.push_back(testing::normal({size}) * 0.01);
    tensors.exp_avg_sqs.push_back(testing::normal({size}).square() * 0.01);
    tensors.steps.push_back(at::full({}, static_cast<double>(tensors.steps.size()), at::kFloat));
    tensors.averages.push_back(testing::normal({size}));
  }
  return tensors;
}

std::vector<at::Tensor> cloned(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> clones;
  for (const at::Tensor& tensor : tensors) clones.push_back(tensor.clone());
  return clones;
}

std::unique_ptr<TensorTable> table_of(const OptimizerTensors& tensors) {
  auto table = std::make_unique<TensorTable>();
  for (std::size_t i = 0; i < tensors.params.size(); ++i) {
    const int at = table->add(tensors.params[i].numel());
    table->param[at] = tensors.params[i].mutable_data_ptr<float>();
    table->grad[at] = tensors.grads[i].const_data_ptr<float>();
    table->exp_avg[at] = tensors.exp_avgs[i].mutable_data_ptr<float>();
    table->exp_avg_sq[at] = tensors.exp_avg_sqs[i].mutable_data_ptr<float>();
    table->step[at] = tensors.steps[i].mutable_data_ptr<float>();
    table->average[at] = tensors.averages[i].mutable_data_ptr<float>();
  }
  return table;
}

GradientNorm simulated_norm(const TensorTable& table, float inverse_scale) {
  std::vector<GradientNorm> total(cuda::kMostThreads);
  for (int64_t number = 0; number < table.chunks; ++number) {
    const TensorChunk chunk = cuda::chunk_of(table, number);
    std::vector<GradientNorm> own(cuda::kMostThreads);
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      GradientNorm& to = own[static_cast<std::size_t>(i - chunk.begin) % own.size()];
      to = merge(to, cuda::gradient_norm(table.grad[chunk.tensor][i], inverse_scale));
    }
    GradientNorm& to = total[static_cast<std::size_t>(number) % total.size()];
    to = merge(to, combine_over_threads(own));
  }
  return combine_over_threads(total);
}

void simulated_step(const TensorTable& table, const AdamWOptions& options, float grad_factor) {
  for (int64_t number = 0; number < table.chunks; ++number) {
    const TensorChunk chunk = cuda::chunk_of(table, number);
    const int t = chunk.tensor;
    const AdamWFactors factors =
        cuda::adamw_factors(options, options.learning_rate, grad_factor, *table.step[t] + 1);
    for (int64_t i = chunk.begin; i < chunk.end; ++i) {
      const AdamWElement element =
          adamw(factors, {table.param[t][i], table.exp_avg[t][i], table.exp_avg_sq[t][i]}, table.grad[t][i]);
      table.param[t][i] = element.param;
      table.exp_avg[t][i] = element.exp_avg;
      table.exp_avg_sq[t][i] = element.exp_avg_sq;
      table.average[t][i] = cuda::interpolated(table.average[t][i], element.param, factors.average_weight);
    }
  }
}

TEST(CudaAdamWMath, ChunksCoverEachElementOnce) {
  const auto table = table_of(make_tensors());
  std::vector<Coverage> written;
  for (const int64_t size : kSizes) written.emplace_back(size);
  for (int64_t number = 0; number < table->chunks; ++number) {
    const TensorChunk chunk = cuda::chunk_of(*table, number);
    EXPECT_LT(chunk.begin, chunk.end);
    EXPECT_EQ(chunk.begin % 4, 0);
    written[static_cast<std::size_t>(chunk.tensor)].add(chunk.begin, chunk.end - chunk.begin);
  }
  for (const Coverage& coverage : written) EXPECT_TRUE(coverage.is_complete());
}

TEST(CudaAdamWMath, AFullTableFindsTheTensorOfEachChunk) {
  auto table = std::make_unique<TensorTable>();
  std::vector<int> tensor_of_chunk;
  while (!table->is_full()) {
    const int64_t chunks = 1 + table->count % 3;
    const int at = table->add(chunks * kChunk - table->count % 2);
    tensor_of_chunk.insert(tensor_of_chunk.end(), static_cast<std::size_t>(chunks), at);
  }
  ASSERT_EQ(table->chunks, static_cast<int64_t>(tensor_of_chunk.size()));
  for (int64_t number = 0; number < table->chunks; ++number)
    EXPECT_EQ(cuda::chunk_of(*table, number).tensor, tensor_of_chunk[static_cast<std::size_t>(number)]);
}

TEST(CudaAdamWMath, NormAndClippingAreThoseOfLibTorch) {
  const OptimizerTensors tensors = make_tensors();
  const auto table = table_of(tensors);
  const GradientNorm norm = simulated_norm(*table, 0.125F);
  std::vector<at::Tensor> unscaled;
  for (const at::Tensor& grad : tensors.grads) unscaled.push_back(grad.to(at::kDouble) * 0.125);
  const double expected = at::linalg_vector_norm(at::cat(unscaled)).item<double>();
  EXPECT_NEAR(std::sqrt(norm.squares), expected, 1e-6 * expected);
  EXPECT_EQ(norm.nonfinite, 0);
  EXPECT_FLOAT_EQ(cuda::clip_factor(4, 1, 0.5F), 0.125F);
  EXPECT_EQ(cuda::clip_factor(0.5F, 1, 0.5F), 0.5F);
  EXPECT_EQ(cuda::clip_factor(4, 0, 0.5F), 0.5F);
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    OptimizerTensors broken = make_tensors();
    broken.grads[4].mutable_data_ptr<float>()[2 * kChunk + 5] = bad;
    EXPECT_EQ(simulated_norm(*table_of(broken), 1).nonfinite, 1);
  }
  // The largest finite numbers are finite, though their squares are not.
  EXPECT_EQ(cuda::gradient_norm(std::numeric_limits<float>::max(), 1).nonfinite, 0);
}

TEST(CudaAdamWMath, StepIsThatOfLibTorchsFusedKernelAndLerp) {
  for (const bool is_decoupled : {true, false})
    for (const double decay : {0.999, 0.25}) {
      const AdamWOptions options{1e-2, 0.9, 0.999, 1e-8, 0.05, is_decoupled, static_cast<float>(1 - decay)};
      const float grad_factor = 0.015F;
      const OptimizerTensors tensors = make_tensors();
      OptimizerTensors expected;
      expected.params = cloned(tensors.params);
      expected.exp_avgs = cloned(tensors.exp_avgs);
      expected.exp_avg_sqs = cloned(tensors.exp_avg_sqs);
      expected.averages = cloned(tensors.averages);
      for (std::size_t i = 0; i < kSizes.size(); ++i) {
        expected.grads.push_back(tensors.grads[i] * grad_factor);
        expected.steps.push_back(tensors.steps[i] + 1);
      }
      const auto run = [&](auto kernel) {
        kernel(expected.params, expected.grads, expected.exp_avgs, expected.exp_avg_sqs,
               std::vector<at::Tensor>(), expected.steps, options.learning_rate, options.beta1, options.beta2,
               options.weight_decay, options.eps, false, false, std::optional<at::Tensor>(),
               std::optional<at::Tensor>());
      };
      if (is_decoupled) {
        run([](const auto&... arguments) { at::_fused_adamw_(arguments...); });
      } else {
        run([](const auto&... arguments) { at::_fused_adam_(arguments...); });
      }
      at::_foreach_lerp_(expected.averages, expected.params, 1 - decay);

      simulated_step(*table_of(tensors), options, grad_factor);
      for (std::size_t i = 0; i < kSizes.size(); ++i) {
        testing::expect_close(tensors.params[i], expected.params[i], 1e-6, "parameter");
        testing::expect_close(tensors.exp_avgs[i], expected.exp_avgs[i], 1e-6, "exp_avg");
        testing::expect_close(tensors.exp_avg_sqs[i], expected.exp_avg_sqs[i], 1e-6, "exp_avg_sq");
        testing::expect_close(tensors.averages[i], expected.averages[i], 1e-6, "average");
      }
    }
}

}  // namespace
}  // namespace diffusers
