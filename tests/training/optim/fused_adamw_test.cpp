#include "training/optim/fused_adamw.h"

#include <vector>

#include <diffusers/core/cuda_options.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/on_cuda.h"

namespace diffusers {
namespace {

struct SteppedWeights {
  Tensor first = at::ones({2, 3}).set_requires_grad(true);
  Tensor second = at::ones({4}).set_requires_grad(true);
  Optimizer optimizer{std::vector<Tensor>{first, second}};

  void give_gradients() const {
    first.mutable_grad() = at::ones({2, 3});
    second.mutable_grad() = at::ones({4});
  }
};

TEST(FusedAdamW, ServesNoOptimizerOnTheCpu) {
  const test::CudaOptionsScope scope(test::exact_options(/*kernels=*/true));
  EXPECT_FALSE(FusedAdamW::can_serve(SteppedWeights().optimizer));
}

TEST(FusedAdamW, LeavesTheFirstStepAndOtherGradientsToTheOptimizer) {
  SteppedWeights weights;
  FusedAdamW fused(weights.optimizer);
  EXPECT_FALSE(fused.begin());  // no gradients
  weights.give_gradients();
  EXPECT_FALSE(fused.begin());  // no moments
  weights.optimizer.step();
  EXPECT_TRUE(fused.begin());
  weights.first.mutable_grad() = at::ones({3, 2}).t();
  EXPECT_FALSE(fused.begin());
  weights.first.mutable_grad() = Tensor();
  EXPECT_TRUE(fused.begin());
}

}  // namespace
}  // namespace diffusers
