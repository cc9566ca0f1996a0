// A step of the Trainer on the CPU clips, updates and averages in one pass.

#include "training/loop/update_run.h"

#include <atomic>
#include <functional>
#include <limits>
#include <memory>
#include <string_view>
#include <vector>

#include <diffusers/ops/fused.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "ops/cpu/kernels.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::TinyNet;

std::atomic<int64_t> g_clipping_passes{0};

std::unique_ptr<at::ObserverContext> count_clipping(const at::RecordFunction& function) {
  if (std::string_view(function.name()) == "aten::_foreach_mul_") ++g_clipping_passes;
  return nullptr;
}

/// Counts the passes of clip_grad_norm_ over the gradients until the scope ends.
class ClippingPasses {
 public:
  ClippingPasses()
      : handle_(at::addGlobalCallback(
            at::RecordFunctionCallback(count_clipping).scopes({at::RecordScope::FUNCTION}))) {
    g_clipping_passes = 0;
  }
  ClippingPasses(const ClippingPasses&) = delete;
  ClippingPasses& operator=(const ClippingPasses&) = delete;
  ~ClippingPasses() { at::removeCallback(handle_); }
  int64_t count() const { return g_clipping_passes; }

 private:
  at::CallbackHandle handle_;
};

struct TrainedWeights {
  std::vector<Tensor> parameters, averages;
  int64_t clipping_passes = 0;
};

constexpr int64_t kStepsOfARun = 20;

TrainedWeights train_some_steps(bool has_kernels, const std::function<void(TrainingConfig&)>& change = {},
                                const std::function<void(TinyNet&)>& prepare = {}) {
  const bool before = ops::fused();
  ops::set_fused(has_kernels);
  const test::LogCapture log;
  const test::TemporaryFolder folder;
  TinyNet model = test::seeded_net();
  if (prepare) prepare(model);
  TrainingConfig config = test::quiet_config(folder.path());
  config.num_epochs = 100;
  config.max_train_steps = kStepsOfARun;
  config.learning_rate = 1e-3;
  config.max_grad_norm = 0.05;
  config.use_ema = true;
  config.tensorboard = config.report = false;
  if (change) change(config);
  const ClippingPasses passes;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<Tensor> parameters;  // training replaces them by their averages in the end
  trainer.on_step([&](int64_t) { parameters = copies(model->parameters()); });
  trainer.train(test::TinyImages(20));
  ops::set_fused(before);
  return {parameters, copies(trainer.ema()->shadow_params()), passes.count()};
}

void expect_close_weights(const TrainedWeights& actual, const TrainedWeights& expected) {
  ASSERT_EQ(actual.parameters.size(), expected.parameters.size());
  for (std::size_t i = 0; i < expected.parameters.size(); ++i) {
    expect_close(actual.parameters[i], expected.parameters[i], 1e-5, 1e-5);
    expect_close(actual.averages[i], expected.averages[i], 1e-5, 1e-5);
  }
}

TEST(UpdateRun, StepsInOnePassOnTheCpuAsInSeparatePasses) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  for (const OptimizerType type : {OptimizerType::kAdamW, OptimizerType::kAdam}) {
    const auto change = [&](TrainingConfig& config) { config.optimizer = type; };
    const TrainedWeights fused = train_some_steps(true, change);
    const TrainedWeights separate = train_some_steps(false, change);
    EXPECT_EQ(fused.clipping_passes, 1);  // the optimizer itself takes the first step
    EXPECT_EQ(separate.clipping_passes, kStepsOfARun);
    expect_close_weights(fused, separate);
  }
}

TEST(UpdateRun, UnscalesAndSkipsInOnePassAsInSeparatePasses) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  // The gradients of the steps 4 and 9 are infinite.
  const auto overflow = [](TinyNet& model) {
    model->conv_out->bias.register_hook([steps = std::make_shared<int64_t>(0)](const Tensor& grad) {
      const int64_t number = (*steps)++;
      return number == 4 || number == 9 ? grad * std::numeric_limits<double>::infinity() : grad;
    });
  };
  for (const MixedPrecision precision : {MixedPrecision::kNo, MixedPrecision::kFp16}) {
    const auto change = [&](TrainingConfig& config) { config.mixed_precision = precision; };
    const TrainedWeights fused = train_some_steps(true, change, overflow);
    const TrainedWeights separate = train_some_steps(false, change, overflow);
    EXPECT_EQ(fused.clipping_passes, 1);
    EXPECT_EQ(separate.clipping_passes, kStepsOfARun);
    for (const Tensor& parameter : fused.parameters) EXPECT_TRUE(parameter.isfinite().all().item<bool>());
    if (precision == MixedPrecision::kNo) expect_close_weights(fused, separate);
  }
}

}  // namespace
}  // namespace diffusers
