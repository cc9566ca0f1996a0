#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/post_hoc_ema.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LabelledNet;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

TEST(Trainer, LearnsAndLeavesAFolderThatPythonOpens) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net();
  TrainingConfig config = quiet_config(folder.path());
  config.num_epochs = 20;
  config.use_ema = true;
  config.logging_steps = 10;
  Trainer trainer(model, DDPMScheduler({.prediction_type = PredictionType::kSample}), config);
  std::vector<double> losses;
  trainer.on_log([&](const TrainingProgress& progress) {
    losses.push_back(progress.loss);
    EXPECT_EQ(progress.total_steps, 100);
    EXPECT_GT(progress.images_per_second, 0);
  });
  const TrainingResult result = trainer.train(TinyImages(20));
  EXPECT_EQ(result.global_step, 100);
  EXPECT_EQ(result.epoch, 19);
  EXPECT_EQ(result.loss, losses.back());
  EXPECT_LT(losses.back(), 0.8 * losses.front());
  EXPECT_FALSE(model->is_training());
  for (const char* name :
       {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json",
        "metrics.csv", "training_config.json", "loss.svg", "noise_schedule.svg"})
    EXPECT_TRUE(file_exists(folder / name)) << name;
  const TensorMap saved = load_safetensors(folder / "unet/diffusion_pytorch_model.safetensors");
  expect_equal(saved.at("conv_in.weight"), trainer.ema()->shadow_params()[0]);
  for (const std::string& name : list_folder(folder.path())) EXPECT_FALSE(name.ends_with(".partial")) << name;
}

/// The memory of gradients, which does not keep them alive.
class GradientWatch {
 public:
  explicit GradientWatch(const std::vector<Tensor>& parameters) {
    for (const Tensor& parameter : parameters)
      parameter.register_hook([this](const Tensor& grad) {
        const std::lock_guard<std::mutex> lock(mutex_);
        memory_.push_back(grad.storage().getWeakStorageImpl());
      });
  }

  /// Returns the number of gradients that were seen, and forgets them.
  std::size_t take_count() { return std::exchange(memory_, {}).size(); }
  std::size_t held() const {
    return static_cast<std::size_t>(
        std::count_if(memory_.begin(), memory_.end(), [](const auto& memory) { return !memory.expired(); }));
  }

 private:
  std::mutex mutex_;
  std::vector<c10::weak_intrusive_ptr<c10::StorageImpl>> memory_;
};

TEST(Trainer, HoldsNoGradientAfterItsStep) {
  for (const OptimizerType optimizer : {OptimizerType::kAdamW, OptimizerType::kSGD})
    for (const int64_t parts : {1, 2}) {
      const test::TemporaryFolder folder;
      TinyNet model = seeded_net();
      TrainingConfig config = quiet_config(folder.path());
      config.optimizer = optimizer;
      config.cpu_data_parallel = parts;
      Trainer trainer(model, DDPMScheduler(), config);
      GradientWatch watch(model->parameters());
      trainer.on_step([&](int64_t step) {
        EXPECT_EQ(watch.held(), 0U) << "step " << step << ", " << parts << " parts";
        EXPECT_GT(watch.take_count(), 0U);
      });
      trainer.train(TinyImages(20));
    }
}

TEST(Trainer, WarmsTheLearningRateUp) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.lr_scheduler = "constant_with_warmup";
  config.lr_warmup_steps = 4;
  config.max_train_steps = 6;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<double> rates;
  trainer.on_log([&](const TrainingProgress& progress) { rates.push_back(progress.lr); });
  trainer.train(TinyImages(8));
  expect_close(at::tensor(rates, at::kDouble),
               at::tensor({0.0, 0.25e-2, 0.5e-2, 0.75e-2, 1e-2, 1e-2}, at::kDouble), 1e-9, 0);
}

// With gradient accumulation, a short last group and several epochs, the schedule ends at the last step.
TEST(Trainer, EndsTheScheduleWithTheTraining) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.gradient_accumulation_steps = 2;
  config.num_epochs = 3;
  config.lr_scheduler = "linear";
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<double> rates;
  trainer.on_log([&](const TrainingProgress& progress) { rates.push_back(progress.lr); });
  trainer.train(TinyImages(22));  // 6 batches of 4 (the last has 2), so 3 steps per epoch
  ASSERT_EQ(rates.size(), 9U);
  for (std::size_t i = 0; i < rates.size(); ++i)
    EXPECT_NEAR(rates[i], 1e-2 * static_cast<double>(9 - i) / 9, 1e-9) << i;
}

TEST(Trainer, UsesDeterministicAlgorithmsWhileItTrains) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.deterministic = true;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  int steps = 0;
  trainer.on_step([&](int64_t) { steps += at::globalContext().deterministicAlgorithms() ? 1 : 0; });
  trainer.train(TinyImages(8));
  EXPECT_EQ(steps, 2);
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
}

TEST(Trainer, FreezesByNameAndLeavesDecayOut) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.freeze = {"conv_in.*"};
  config.no_weight_decay_on_bias_and_norm = true;
  TinyNet model = seeded_net();
  const std::vector<Tensor> before = copies(model->parameters());
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.train(TinyImages(8));
  expect_equal(model->conv_in->weight.detach(), before[0]);
  EXPECT_FALSE(model->conv_in->weight.requires_grad());
  EXPECT_FALSE(at::equal(model->conv_out->weight, before[4]));
  const std::vector<ParameterGroup>& groups = trainer.optimizer()->param_groups();
  std::size_t without_decay = 0;
  for (const ParameterGroup& group : groups)
    if (group.weight_decay == 0.0) without_decay += group.params.size();
  EXPECT_EQ(without_decay, 2U);  // the biases of `time` and `conv_out`

  config.freeze = {"conv_inn.*"};
  expect_throws_with<ConfigError>(
      [&] { Trainer(seeded_net(), DDPMScheduler(), config).train(TinyImages(8)); }, "conv_inn.*");
  config.freeze = {"*"};
  expect_throws_with<ConfigError>(
      [&] { Trainer(seeded_net(), DDPMScheduler(), config).train(TinyImages(8)); }, "none of which requires");
}

TEST(Trainer, TrainsWithEveryOptimizer) {
  for (const OptimizerType type : {OptimizerType::kAdamW, OptimizerType::kAdam, OptimizerType::kSGD,
                                   OptimizerType::kLion, OptimizerType::kAdafactor}) {
    const test::TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.optimizer = type;
    config.num_epochs = 20;
    config.learning_rate = type == OptimizerType::kLion ? 2e-3 : 2e-2;
    config.sgd_momentum = type == OptimizerType::kSGD ? 0.9 : 0.0;
    config.logging_steps = 25;
    Trainer trainer(seeded_net(), DDPMScheduler({.prediction_type = PredictionType::kSample}), config);
    std::vector<double> losses;
    trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
    trainer.train(TinyImages(20));
    EXPECT_LT(losses.back(), 0.95 * losses.front()) << enum_name(type);
  }
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.sgd_momentum = 0.9;
  expect_throws_with<ConfigError>(
      [&] { Trainer(seeded_net(), DDPMScheduler(), config).train(TinyImages(8)); }, "sgd_momentum is 0.9");
}

TEST(Trainer, LearnsALogVarianceBesideTheModel) {
  for (const LogVarianceType type : {LogVarianceType::kTable, LogVarianceType::kFourier}) {
    const test::TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.checkpointing_steps = 5;
    config.use_ema = true;
    Trainer trainer(seeded_net(), DDPMScheduler({.num_train_timesteps = 4}), config,
                    DiffusionTaskOptions{.learned_log_variance = type});
    trainer.train(TinyImages(20));
    const LearnedLogVariance learned = LearnedLogVariance::from_pretrained(folder / "log_variance");
    double moved = 0;
    for (const Tensor& parameter : learned->parameters()) moved += parameter.abs().sum().item<double>();
    EXPECT_GT(moved, 0.0) << enum_name(type);
    EXPECT_TRUE(folder_exists(folder / "checkpoint-5/log_variance_ema"));
  }
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  const DiffusionTaskOptions table{.learned_log_variance = LogVarianceType::kTable};
  expect_throws_with<ConfigError>(
      [&] { Trainer(seeded_net(), FlowMatchEulerDiscreteScheduler(), config, table); },
      "learned_log_variance is \"table\"");
}

TEST(Trainer, KeepsPowerAveragesForLater) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.post_hoc_ema_sigma_rels = {0.1, 0.2};
  config.post_hoc_ema_steps = 2;
  TinyNet model = seeded_net();
  Trainer(model, DDPMScheduler(), config).train(TinyImages(20));
  const std::vector<PowerEmaSnapshot> snapshots = list_power_ema_snapshots(folder / "power_ema/unet");
  EXPECT_EQ(snapshots.size(), 6U);  // two widths at steps 2, 4 and the last, 5
  const PowerEmaReconstruction average = reconstruct_power_ema(snapshots, 0.15);
  EXPECT_EQ(average.profile.step, 5);
  EXPECT_EQ(average.tensors.at("conv_in.weight").sizes(), model->conv_in->weight.sizes());
}

TEST(Trainer, LeavesAReportAndEventsForTensorBoard) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.validation_steps = 2;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  trainer.on_preview([](const PreviewContext& at) { at.log_images("samples", at::rand({4, 1, 6, 6}), {}); });
  trainer.train(TinyImages(20), TinyImages(10));
  EXPECT_TRUE(file_exists(folder / "previews/samples-2.png"));
  ASSERT_EQ(list_folder(folder / "logs").size(), 1U);
  const std::string report = read_text_file(folder / "report.html");
  for (const char* part : {"chart-loss", "chart-timestep-bins", "data:image/png;base64,", "train_batch_size"})
    EXPECT_NE(report.find(part), std::string::npos) << part;
  const std::string metrics = read_text_file(folder / "metrics.jsonl");
  EXPECT_NE(metrics.find("validation_loss"), std::string::npos);
  EXPECT_NE(metrics.find("data_wait_share"), std::string::npos);

  const test::TemporaryFolder quiet;
  config = quiet_config(quiet.path());
  config.tensorboard = false;
  config.report = false;
  Trainer(seeded_net(), DDPMScheduler(), config).train(TinyImages(8));
  EXPECT_FALSE(folder_exists(quiet / "logs"));
  EXPECT_FALSE(file_exists(quiet / "report.html"));
}

TEST(Trainer, GivesLabelsToModelsThatTakeThem) {
  const test::TemporaryFolder folder;
  LabelledNet model;
  TrainingConfig config = quiet_config(folder.path());
  config.overwrite_output_dir = true;
  {
    Trainer trainer(model, DDPMScheduler(), config);
    trainer.train(TinyImages(8, /*has_labels=*/true));
    EXPECT_TRUE(model->last_labels.defined());
    trainer.train(TinyImages(8));
    EXPECT_FALSE(model->last_labels.defined());
  }
  Trainer(model, DDPMScheduler(), config, {.class_conditional = false}).train(TinyImages(8, true));
  EXPECT_FALSE(model->last_labels.defined());

  const DiffusionTaskOptions required{.class_conditional = true};
  expect_throws_with<ConfigError>(
      [&] { Trainer(model, DDPMScheduler(), config, required).train(TinyImages(8)); },
      "class_conditional is true");
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config, required); },
                                  "class_conditional is true");
}

}  // namespace
}  // namespace diffusers
