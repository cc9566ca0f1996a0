// The weights that a training reaches: those of Python, of a larger batch, of the same seed, and of a
// training in mixed precision.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

/// A task that uses given images, noise and timesteps for each step and batch.
class GivenTask : public DiffusionTask {
 public:
  GivenTask(TrainableDenoiser model, const Scheduler& scheduler, const DiffusionTaskOptions& options,
            Tensor x0, Tensor noise, Tensor timesteps)
      : DiffusionTask(std::move(model), scheduler, options),
        x0_(std::move(x0)),
        noise_(std::move(noise)),
        timesteps_(std::move(timesteps)) {}
  void begin_step(const StepContext& context) override {
    DiffusionTask::begin_step(context);
    step_ = context.step;
    index_ = 0;
  }

 protected:
  Tensor encode(const Batch&) override { return x0_[step_][index_]; }
  Draw draw(const Tensor&) override {
    const Tensor noise = noise_[step_][index_];
    return {noise, noise, timesteps_[step_][index_++]};
  }

 private:
  Tensor x0_, noise_, timesteps_;
  int64_t step_ = 0;
  int64_t index_ = 0;
};

Tensor flat(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> parts;
  for (const Tensor& tensor : tensors) parts.push_back(tensor.detach().flatten());
  return at::cat(parts);
}

TEST(Trainer, FollowsPythonOverTwentySteps) {
  const test::Golden golden = test::load_golden("training_trajectory.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 96U);  // 4 predictions, 4 weightings, 3 ways to step, 2 dtypes
  for (const Json& one : cases) {
    const test::TemporaryFolder folder;
    const auto name = one.at("name").get<std::string>();
    const auto mode = one.at("mode").get<std::string>();
    const bool is_double = one.at("dtype") == "float64";
    const at::ScalarType dtype = is_double ? at::kDouble : at::kFloat;
    const auto type = enum_from_name<PredictionType>(one.at("prediction_type").get<std::string>(), "");
    TinyNet model;
    model->to(dtype);
    for (auto& parameter : model->named_parameters())
      parameter.value().detach().copy_(golden["start." + parameter.key()]);

    TrainingConfig config = quiet_config(folder.path());
    config.max_train_steps = 20;
    config.gradient_accumulation_steps = mode == "accumulated" ? 2 : 1;
    config.lr_scheduler = "cosine";
    config.lr_warmup_steps = 5;
    const DiffusionTaskOptions options{
        .weighting = enum_from_name<LossWeighting>(one.at("weighting").get<std::string>(), "weighting")};
    config.max_grad_norm = mode == "clipped" ? 0.1 : 0.0;
    config.use_ema = true;
    config.adam_weight_decay = 1e-2;
    std::unique_ptr<Scheduler> scheduler = std::make_unique<FlowMatchEulerDiscreteScheduler>();
    Tensor timesteps = golden["timesteps"] + 1;  // t = sigma T, from 1 to T
    if (type != PredictionType::kFlowPrediction) {
      scheduler = std::make_unique<DDPMScheduler>(DDPMSchedulerConfig{.prediction_type = type});
      timesteps = golden["timesteps"];
    }
    Trainer trainer(std::make_shared<GivenTask>(make_trainable(model), *scheduler, options,
                                                golden["x0"].to(dtype), golden["noise"].to(dtype), timesteps),
                    config);
    std::vector<double> losses;
    trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
    Tensor weights;
    trainer.on_step([&](int64_t) { weights = flat(model->parameters()); });
    const TrainingResult result = trainer.train(TinyImages(160));
    EXPECT_TRUE(result.is_complete);

    const double rtol = is_double ? 1e-10 : 1e-5;
    const double atol = is_double ? 1e-12 : 1e-5;
    expect_close(at::tensor(losses, at::kDouble), golden[name + ".losses"], rtol, atol / 10, name);
    expect_close(weights, golden[name + ".model"], rtol, atol, name);
    expect_close(flat(trainer.ema()->shadow_params()), golden[name + ".ema"], rtol, atol, name);
    // After the training the model has the EMA weights.
    test::expect_equal(flat(model->parameters()), flat(trainer.ema()->shadow_params()));
  }
}

// With 22 images in batches of 4, the last group of the epoch has one batch of two images.
TEST(Trainer, AccumulationEqualsTheLargeBatch) {
  const TinyImages images(22);
  const auto train = [&](int64_t batch_size, int64_t accumulation) {
    const test::TemporaryFolder folder;
    TinyNet model = seeded_net();
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = batch_size;
    config.gradient_accumulation_steps = accumulation;
    config.num_epochs = 2;
    config.noise_offset = 0.1;
    config.input_perturbation = 0.1;
    Trainer trainer(model, DDPMScheduler(), config);
    EXPECT_EQ(trainer.train(images).global_step, 4);
    return copies(model->parameters());
  };
  const std::vector<Tensor> large = train(12, 1);
  const std::vector<Tensor> small = train(4, 3);
  for (std::size_t i = 0; i < large.size(); ++i) expect_close(small[i], large[i], 1e-4, 1e-5);
}

TEST(Trainer, TheSeedFixesTheTraining) {
  const auto train = [](int64_t seed, int64_t workers) {
    const test::TemporaryFolder folder;
    TinyNet model = seeded_net(0.2);
    TrainingConfig config = quiet_config(folder.path());
    config.seed = seed;
    config.dataloader_num_workers = workers;
    Trainer(model, DDPMScheduler(), config).train(TinyImages(20));
    return copies(model->parameters());
  };
  const std::vector<Tensor> first = train(1, 0);
  const std::vector<Tensor> same = train(1, 2);
  for (std::size_t i = 0; i < first.size(); ++i) expect_equal(same[i], first[i]);
  EXPECT_FALSE(at::equal(train(2, 0)[0], first[0]));
}

TEST(Trainer, TrainsInMixedPrecision) {
  const auto train = [](MixedPrecision precision) {
    const test::TemporaryFolder folder;
    TinyNet model = seeded_net();
    TrainingConfig config = quiet_config(folder.path());
    config.mixed_precision = precision;
    config.num_epochs = 8;
    config.logging_steps = 20;
    Trainer trainer(model, DDPMScheduler({.prediction_type = PredictionType::kSample}), config);
    std::vector<double> losses;
    trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
    trainer.train(TinyImages(20));
    EXPECT_EQ(model->conv_in->weight.scalar_type(), at::kFloat);
    return losses;
  };
  const std::vector<double> full = train(MixedPrecision::kNo);
  for (const MixedPrecision precision : {MixedPrecision::kBf16, MixedPrecision::kFp16}) {
    const std::vector<double> losses = train(precision);
    EXPECT_LT(losses.back(), losses.front()) << enum_name(precision);
    for (std::size_t i = 0; i < full.size(); ++i) {
      // The losses are close to those in float32 but not equal, since the mantissa has 8 (bf16) or 11 (fp16)
      // bits.
      EXPECT_NEAR(losses[i], full[i], 0.03 * full[i]) << enum_name(precision);
      EXPECT_NE(losses[i], full[i]) << enum_name(precision);
    }
  }
  const test::TemporaryFolder folder;
  TinyNet half;
  half->to(at::kHalf);
  expect_throws_with<ConfigError>(
      [&] { Trainer(half, DDPMScheduler(), quiet_config(folder.path())).train(TinyImages(4)); }, "float16");
}

}  // namespace
}  // namespace diffusers
