#include "training/optim/fused_adamw.h"

#include <vector>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/random.h>
#include <diffusers/ops/fused.h>
#include <diffusers/training/ema.h>
#include <diffusers/training/gradient_clipping.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/cpu/kernels.h"
#include "support/enabled_kernels.h"
#include "support/golden.h"
#include "support/on_cuda.h"
#include "training/optim/clip_factor.h"

namespace diffusers {
namespace {

using test::expect_equal;

struct SteppedWeights {
  explicit SteppedWeights(const OptimizerConfig& config = {}) : optimizer({first, second}, config) {}

  Tensor first = at::ones({2, 3}).set_requires_grad(true);
  Tensor second = at::ones({4}).set_requires_grad(true);
  Optimizer optimizer;

  void give_gradients() const {
    first.mutable_grad() = at::ones({2, 3});
    second.mutable_grad() = at::ones({4});
  }
};

/// Two groups with their own options, and an average of all parameters.
struct AveragedWeights {
  explicit AveragedWeights(OptimizerType type)
      : parameters{weight({37}, 1), weight({6, 5}, 2), weight({70, 300}, 3)},
        optimizer({{.params = {parameters[0]}, .lr = 3e-2, .weight_decay = 0.1},
                   {.params = {parameters[1], parameters[2]}, .lr_factor = 0.5}},
                  {.type = type, .lr = 1e-2, .weight_decay = 0.0}),
        average(parameters, {.decay = 0.9, .use_ema_warmup = true, .power = 0.75}) {}

  static Tensor weight(at::IntArrayRef shape, uint64_t seed) {
    manual_seed(seed);
    return at::randn(shape).set_requires_grad(true);
  }

  /// @param without_gradient number of a parameter
  void give_gradients(uint64_t step, std::size_t without_gradient) const {
    manual_seed(100 + step);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const Tensor grad = at::randn(parameters[i].sizes());
      parameters[i].mutable_grad() = i == without_gradient ? Tensor() : grad;
    }
  }

  std::vector<Tensor> parameters;
  Optimizer optimizer;
  EMAModel average;
};

TEST(FusedAdamW, ServesAdamOfFloat32ParametersOnTheCpu) {
  const test::EnabledKernels kernels;
  const test::CudaOptionsScope scope(test::exact_options(/*kernels=*/true));
  EXPECT_EQ(FusedAdamW::can_serve(SteppedWeights().optimizer), cpu::kernels_available());
  EXPECT_EQ(FusedAdamW::can_serve(SteppedWeights({.type = OptimizerType::kAdam}).optimizer),
            cpu::kernels_available());
  EXPECT_FALSE(FusedAdamW::can_serve(SteppedWeights({.amsgrad = true}).optimizer));
  EXPECT_FALSE(FusedAdamW::can_serve(
      SteppedWeights(default_optimizer_config(enum_from_name<OptimizerType>("lion", "type"))).optimizer));
  const Tensor exact = at::ones({2}, at::kDouble).set_requires_grad(true);
  const Tensor plain = at::ones({2}).set_requires_grad(true);
  EXPECT_FALSE(FusedAdamW::can_serve(Optimizer(std::vector<Tensor>{plain, exact})));
  set_fused_cpu(false);
  EXPECT_FALSE(FusedAdamW::can_serve(SteppedWeights().optimizer));
  set_fused_cpu(true);
}

TEST(FusedAdamW, LeavesTheFirstStepAndOtherGradientsToTheOptimizer) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const test::EnabledKernels kernels;
  SteppedWeights weights;
  FusedAdamW fused(weights.optimizer);
  EXPECT_FALSE(fused.begin());  // no gradients
  weights.give_gradients();
  EXPECT_FALSE(fused.begin());  // no moments
  weights.optimizer.step();
  EXPECT_TRUE(fused.begin());
  set_fused_cpu(false);
  EXPECT_FALSE(fused.begin());
  set_fused_cpu(true);
  weights.first.mutable_grad() = at::ones({3, 2}).t();
  EXPECT_FALSE(fused.begin());
  weights.first.mutable_grad() = Tensor();
  EXPECT_TRUE(fused.begin());
}

TEST(FusedAdamW, OnePassHasTheBitsOfClippingSteppingAndAveraging) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const test::EnabledKernels kernels;
  constexpr double kMaxNorm = 3.0;
  constexpr std::size_t kNone = 3;
  for (const OptimizerType type : {OptimizerType::kAdamW, OptimizerType::kAdam}) {
    AveragedWeights separate(type);
    AveragedWeights fused_weights(type);
    FusedAdamW fused(fused_weights.optimizer);
    int64_t passes = 0;
    int64_t averaged = 0;
    for (uint64_t step = 0; step < 8; ++step) {
      const std::size_t without_gradient = step == 3 ? 1 : kNone;
      const Tensor skip = at::full({1}, step == 5 ? 1.0F : 0.0F);
      const double lr_factor = 1 / (1.0 + static_cast<double>(step));
      separate.give_gradients(step, without_gradient);
      clip_grad_norm_(separate.parameters, kMaxNorm);
      separate.optimizer.step(lr_factor, skip);
      separate.average.step(separate.parameters);

      fused_weights.give_gradients(step, without_gradient);
      EMAModel& average = fused_weights.average;
      bool is_averaged = false;
      if (fused.begin()) {
        ++passes;
        average.load_state({average.config(), average.optimization_step() + 1});
        const FusedAverage moved{fused_weights.parameters, average.shadow_params(),
                                 1 - average.cur_decay_value()};
        const Tensor norm = get_total_grad_norm(fused_weights.parameters);
        const Tensor outcome = at::stack({norm, at::zeros({}), clip_factor(norm, kMaxNorm)});
        is_averaged = fused.step(lr_factor, {}, outcome, skip, &moved);
        if (!is_averaged) average.load_state({average.config(), average.optimization_step() - 1});
      } else {
        clip_grad_norm_(fused_weights.parameters, kMaxNorm);
        fused_weights.optimizer.step(lr_factor, skip);
      }
      if (!is_averaged) average.step(fused_weights.parameters);
      averaged += is_averaged ? 1 : 0;
      for (const Tensor& parameter : fused_weights.parameters)
        EXPECT_LE(parameter.grad().use_count(), 1U) << "the gradient is held after step " << step;

      for (std::size_t i = 0; i < separate.parameters.size(); ++i) {
        expect_equal(fused_weights.parameters[i].detach(), separate.parameters[i].detach());
        expect_equal(average.shadow_params()[i], separate.average.shadow_params()[i]);
      }
      const TensorMap expected = separate.optimizer.state_dict();
      for (const auto& [name, tensor] : fused_weights.optimizer.state_dict())
        expect_equal(tensor, expected.at(name), name);
    }
    EXPECT_EQ(passes, 7);    // all but the first step
    EXPECT_EQ(averaged, 6);  // those with a gradient for each parameter
  }
}

}  // namespace
}  // namespace diffusers
