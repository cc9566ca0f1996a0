// The arithmetic of the CUDA kernels of GEGLU and of the timestep embedding, run on the host.

#include "ops/cuda/pointwise_math.h"

#include <cmath>
#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/cuda/simulated_device.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::Coverage;
using testing::floats_of;

TEST(CudaPointwiseMath, GegluMatchesFloat64) {
  manual_seed(1);
  const cuda::GegluShape shape{7, 12};
  const at::Tensor x = 3 * testing::normal({shape.rows, 2 * shape.features});
  const at::Tensor grad_y = testing::normal({shape.rows, shape.features});
  const at::Tensor exact = testing::leaf(x, at::kDouble);
  const at::Tensor expected = reference::geglu(exact);
  const at::Tensor expected_grad = torch::autograd::grad({expected}, {exact}, {grad_y.to(at::kDouble)})[0];

  const std::vector<float> from = floats_of(x);
  const std::vector<float> grads = floats_of(grad_y);
  at::Tensor y = at::empty_like(grad_y);
  at::Tensor grad_x = at::empty_like(x);
  Coverage written(x.numel());
  for (int64_t i = 0; i < shape.size(); ++i) {
    const int64_t value = shape.value_index(i);
    const int64_t gate = value + shape.features;
    written.add(value);
    written.add(gate);
    const float a = from[static_cast<std::size_t>(value)];
    const float b = from[static_cast<std::size_t>(gate)];
    y.mutable_data_ptr<float>()[i] = cuda::geglu(a, b);
    const auto gradients = cuda::geglu_gradients(grads[static_cast<std::size_t>(i)], a, b);
    grad_x.mutable_data_ptr<float>()[value] = gradients.value;
    grad_x.mutable_data_ptr<float>()[gate] = gradients.gate;
  }
  EXPECT_TRUE(written.is_complete());
  testing::expect_close(y, expected.detach(), 1e-6, "y");
  testing::expect_close(grad_x, expected_grad, 1e-6, "gradient");
}

/// `get_timestep_embedding` in float64; tests of models compare that function with Python.
at::Tensor exact_embedding(const cuda::TimestepEmbeddingShape& shape, const at::Tensor& timesteps) {
  const at::Tensor exponent =
      double{shape.log_period} * at::arange(shape.dim / 2, at::kDouble) / double{shape.frequencies};
  const at::Tensor angles = double{shape.scale} * timesteps.to(at::kDouble).unsqueeze(1) * at::exp(exponent);
  const at::Tensor sin = at::sin(angles);
  const at::Tensor cos = at::cos(angles);
  const at::Tensor both = shape.flip_sin_to_cos ? at::cat({cos, sin}, 1) : at::cat({sin, cos}, 1);
  return at::constant_pad_nd(both, {0, shape.dim % 2});
}

TEST(CudaPointwiseMath, TimestepEmbeddingMatchesFloat64) {
  const at::Tensor timesteps = at::arange(0, 20, at::kFloat) * 1.25;
  for (const int64_t dim : {2, 32, 33})
    for (const bool flip : {false, true})
      for (const float scale : {1.0F, 4.0F}) {
        const cuda::TimestepEmbeddingShape shape{
            20, dim, flip, static_cast<float>(-std::log(10000.0)), static_cast<float>(dim / 2), scale};
        at::Tensor y = at::empty({20, dim});
        for (int64_t i = 0; i < y.numel(); ++i)
          y.mutable_data_ptr<float>()[i] =
              cuda::timestep_embedding(shape, timesteps.const_data_ptr<float>()[i / dim], i % dim);
        // Angles of up to 100 have a rounding error of 4e-6.
        testing::expect_close(y, exact_embedding(shape, timesteps), 2e-5, "embedding");
      }
}

}  // namespace
}  // namespace diffusers
