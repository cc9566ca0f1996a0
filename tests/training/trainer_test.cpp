#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/post_hoc_ema.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "tiny_model.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LabelledNet;
using test::TinyImages;
using test::TinyNet;

/// What most tests here train with.
TrainingConfig quiet_config(const std::string& output_dir) {
  TrainingConfig config;
  config.output_dir = output_dir;
  config.seed = 3;
  config.train_batch_size = 4;
  config.num_epochs = 1;
  config.learning_rate = 1e-2;
  config.lr_scheduler = "constant";
  config.lr_warmup_steps = 0;
  config.checkpointing_steps = 0;
  config.logging_steps = 1;
  config.progress_bar = false;
  return config;
}

TinyNet seeded_net(double dropout = 0.0) {
  manual_seed(11);
  return TinyNet(dropout);
}

std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.detach().clone());
  return result;
}

/// Feeds given images, noise and timesteps instead of drawing them: step after step, batch after batch.
class GivenTask : public DiffusionTask {
 public:
  GivenTask(std::shared_ptr<TrainableModel> model, const Scheduler& scheduler, Tensor x0, Tensor noise,
            Tensor timesteps)
      : DiffusionTask(std::move(model), scheduler),
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
    config.weighting = enum_from_name<LossWeighting>(one.at("weighting").get<std::string>(), "");
    config.max_grad_norm = mode == "clipped" ? 0.1 : 0.0;
    config.use_ema = true;
    config.adam_weight_decay = 1e-2;
    std::unique_ptr<Scheduler> scheduler = std::make_unique<FlowMatchEulerDiscreteScheduler>();
    Tensor timesteps = golden["timesteps"] + 1;  // sigma T, from 1 to T
    if (type != PredictionType::kFlowPrediction) {
      scheduler = std::make_unique<DDPMScheduler>(DDPMSchedulerConfig{.prediction_type = type});
      timesteps = golden["timesteps"];
    }
    Trainer trainer(std::make_shared<GivenTask>(make_trainable(model), *scheduler, golden["x0"].to(dtype),
                                                golden["noise"].to(dtype), timesteps),
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
    // After the training, the model itself has the average.
    test::expect_equal(flat(model->parameters()), flat(trainer.ema()->shadow_params()));
  }
}

// 22 images in batches of 4: the last group of the epoch has one batch, and that one has two images.
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

// With accumulation, a short last group and several epochs, the schedule ends with the training.
TEST(Trainer, EndsTheScheduleWithTheTraining) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.gradient_accumulation_steps = 2;
  config.num_epochs = 3;
  config.lr_scheduler = "linear";
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<double> rates;
  trainer.on_log([&](const TrainingProgress& progress) { rates.push_back(progress.lr); });
  trainer.train(TinyImages(22));  // 6 batches of 4, the last of 2: 3 steps an epoch
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
    config.learned_log_variance = type;
    config.checkpointing_steps = 5;
    config.use_ema = true;
    Trainer trainer(seeded_net(), DDPMScheduler({.num_train_timesteps = 4}), config);
    trainer.train(TinyImages(20));
    const LearnedLogVariance learned = LearnedLogVariance::from_pretrained(folder / "log_variance");
    double moved = 0;
    for (const Tensor& parameter : learned->parameters()) moved += parameter.abs().sum().item<double>();
    EXPECT_GT(moved, 0.0) << enum_name(type);
    EXPECT_TRUE(folder_exists(folder / "checkpoint-5/log_variance_ema"));
  }
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.learned_log_variance = LogVarianceType::kTable;
  expect_throws_with<ConfigError>([&] { Trainer(seeded_net(), FlowMatchEulerDiscreteScheduler(), config); },
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
  {
    Trainer trainer(model, DDPMScheduler(), quiet_config(folder.path()));
    trainer.train(TinyImages(8, /*has_labels=*/true));
    EXPECT_TRUE(model->last_labels.defined());
    trainer.train(TinyImages(8));
    EXPECT_FALSE(model->last_labels.defined());
  }
  TrainingConfig config = quiet_config(folder.path());
  config.class_conditional = false;
  Trainer(model, DDPMScheduler(), config).train(TinyImages(8, true));
  EXPECT_FALSE(model->last_labels.defined());

  config.class_conditional = true;
  expect_throws_with<ConfigError>([&] { Trainer(model, DDPMScheduler(), config).train(TinyImages(8)); },
                                  "class_conditional is true");
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); },
                                  "class_conditional is true");
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
      // Close to float32, and yet not it: 8 (11) bits of mantissa leave their trace.
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

TEST(Trainer, SkipsASingleBadStepAndStopsAfterAFew) {
  const LogSink previous = set_log_sink([](LogLevel, std::string_view) {});
  {
    const test::TemporaryFolder folder;
    TinyImages images(20);
    images.images()[7].fill_(std::nan(""));
    TinyNet model = seeded_net();
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = 1;
    config.use_ema = true;
    config.checkpointing_steps = 10;
    const TrainingResult result = Trainer(model, DDPMScheduler(), config).train(images);
    EXPECT_EQ(result.skipped_steps, 1);
    for (const Tensor& parameter : model->parameters()) EXPECT_TRUE(parameter.isfinite().all().item<bool>());
    EXPECT_TRUE(std::isfinite(result.loss));
  }
  {
    const test::TemporaryFolder folder;
    TinyImages images(20);
    images.images().fill_(std::numeric_limits<float>::infinity());
    TinyNet model = seeded_net();
    const std::vector<Tensor> before = copies(model->parameters());
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = 1;
    config.checkpointing_steps = 10;
    expect_throws_with<Error>([&] { Trainer(model, DDPMScheduler(), config).train(images); },
                              "max_nonfinite_steps is 5");
    for (std::size_t i = 0; i < before.size(); ++i) expect_equal(model->parameters()[i].detach(), before[i]);
    EXPECT_FALSE(folder_exists(folder / "unet"));
    EXPECT_FALSE(folder_exists(folder / "checkpoint-10"));
  }
  set_log_sink(previous);
}

/// What goes to the log while it exists.
class CapturedWarnings {
 public:
  CapturedWarnings()
      : previous_(set_log_sink(
            [this](LogLevel, std::string_view message) { text_ += std::string(message) + "\n"; })) {}
  CapturedWarnings(const CapturedWarnings&) = delete;
  CapturedWarnings& operator=(const CapturedWarnings&) = delete;
  ~CapturedWarnings() { set_log_sink(previous_); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  LogSink previous_;
};

TEST(Trainer, NamesTheModuleWhoseOutputWasNotFiniteFirst) {
  struct OverflowingNetImpl : torch::nn::Module {
    OverflowingNetImpl() {
      first = register_module("first", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 1)));
      second = register_module("second", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 1, 1)));
      const at::NoGradGuard no_grad;
      second->weight.fill_(3e38);
    }
    Tensor forward(const Tensor& sample, const Tensor&) { return second(first(sample) * 10); }
    torch::nn::Conv2d first{nullptr}, second{nullptr};
  };
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.logging_steps = 100;
  config.max_nonfinite_steps = 3;
  config.num_epochs = 10;
  const CapturedWarnings log;
  Trainer trainer(std::make_shared<OverflowingNetImpl>(), DDPMScheduler(), config);
  int64_t steps = 0;
  trainer.on_step([&](int64_t step) { steps = step; });
  expect_throws_with<Error>([&] { trainer.train(TinyImages(20)); }, "first in the output of second (aten::");
  EXPECT_EQ(steps, 2);  // the third ends it, long before the next logging step
}

TEST(Trainer, NamesABadBatchAndABadParameter) {
  const auto message = [](bool bad_images) {
    const test::TemporaryFolder folder;
    TinyImages images(8);
    TinyNet model = seeded_net();
    if (bad_images) {
      images.images().fill_(std::nan(""));
    } else {
      const at::NoGradGuard no_grad;
      model->time->bias.fill_(std::nan(""));
    }
    TrainingConfig config = quiet_config(folder.path());
    config.max_nonfinite_steps = 1;
    try {
      Trainer(model, DDPMScheduler(), config).train(images);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message(true).find("first in the images of the batch"), std::string::npos) << message(true);
  EXPECT_NE(message(false).find("first in the parameter time.bias"), std::string::npos) << message(false);
}

TEST(Trainer, ValidatesOnHeldOutDataWithTheSameNoiseEachTime) {
  const auto train = [](double learning_rate, int64_t bins) {
    const test::TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.learning_rate = learning_rate;
    config.validation_steps = 2;
    config.validation_samples = 30;
    config.validation_bins = bins;
    config.use_ema = true;
    Trainer trainer(seeded_net(0.3), DDPMScheduler({.prediction_type = PredictionType::kSample}), config);
    std::vector<ValidationResult> results;
    trainer.on_validation([&](const ValidationResult& result) { results.push_back(result); });
    trainer.train(TinyImages(20), TinyImages(40));
    return results;
  };
  const std::vector<ValidationResult> still = train(0.0, 5);
  ASSERT_EQ(still.size(), 3U);  // steps 2, 4 and the last, 5
  EXPECT_EQ(still[2].step, 5);
  EXPECT_EQ(still[0].loss, still[2].loss);  // dropout and drawn noise would show
  EXPECT_EQ(still[0].bin_losses, still[2].bin_losses);
  ASSERT_EQ(still[0].bin_losses.size(), 5U);
  // 30 examples over 5 bins are 6 each.
  double mean = 0;
  for (const double bin : still[0].bin_losses) mean += bin / 5;
  EXPECT_NEAR(mean, still[0].loss, 1e-9);

  const std::vector<ValidationResult> learning = train(1e-2, 40);
  EXPECT_LT(learning[2].loss, learning[0].loss);
  // An average over more bins than examples leaves some empty.
  EXPECT_EQ(std::count_if(learning[0].bin_losses.begin(), learning[0].bin_losses.end(),
                          [](double bin) { return std::isnan(bin); }),
            10);
}

TEST(Trainer, DoesNotLetAValidationDisturbTheTraining) {
  const auto train = [](int64_t validation_steps) {
    const test::TemporaryFolder folder;
    TinyNet model = seeded_net(0.3);
    TrainingConfig config = quiet_config(folder.path());
    config.validation_steps = validation_steps;
    config.use_ema = true;
    Trainer(model, DDPMScheduler(), config).train(TinyImages(20), TinyImages(7));
    return copies(model->parameters());
  };
  const std::vector<Tensor> plain = train(0);
  const std::vector<Tensor> validated = train(1);
  for (std::size_t i = 0; i < plain.size(); ++i) expect_equal(validated[i], plain[i]);
}

TEST(Trainer, DropsLabelsForGuidance) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.class_dropout_prob = 0.3;
  expect_throws_with<ConfigError>([&] { Trainer(LabelledNet(), DDPMScheduler(), config); },
                                  "num_class_embeds");
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); },
                                  "class_dropout_prob is 0.3");
  config.class_dropout_prob = 1.0;
  expect_throws_with<ConfigError>([&] { Trainer(LabelledNet(), DDPMScheduler(), config); },
                                  "class_dropout_prob is 1");
  config.class_dropout_prob = 0.3;
  config.train_batch_size = 1000;
  LabelledNet model;
  model->config = R"({"num_class_embeds": 11})";
  Trainer(model, DDPMScheduler(), config).train(TinyImages(1000, /*has_labels=*/true, /*side=*/1));
  const Tensor is_null = model->last_labels == 10;
  const auto dropped = is_null.sum().item<int64_t>();
  EXPECT_NEAR(static_cast<double>(dropped), 300.0, 60.0);  // four standard deviations
}

TEST(Trainer, ShowsTheAverageToAPreview) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net(0.5);
  TrainingConfig config = quiet_config(folder.path());
  config.use_ema = true;
  config.max_train_steps = 7;
  config.validation_steps = 3;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<int64_t> steps;
  std::vector<Tensor> weights;
  trainer.on_step([&](int64_t) { weights = copies(model->parameters()); });
  trainer.on_preview([&](const PreviewContext& context) {
    steps.push_back(context.step);
    EXPECT_FALSE(model->is_training());
    EXPECT_FALSE(at::GradMode::is_enabled());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      expect_equal(model->parameters()[i].detach(), trainer.ema()->shadow_params()[i]);
      EXPECT_FALSE(at::equal(model->parameters()[i], weights[i]));
    }
  });
  trainer.train(TinyImages(16));
  EXPECT_EQ(steps, (std::vector<int64_t>{3, 6, 7}));
}

TEST(Trainer, RestoresTheWeightsIfAPreviewThrows) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net();
  TrainingConfig config = quiet_config(folder.path());
  config.use_ema = true;
  config.validation_steps = 3;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<Tensor> weights;
  trainer.on_step([&](int64_t) { weights = copies(model->parameters()); });
  trainer.on_preview([](const PreviewContext&) { throw FileError("the disk is full"); });
  expect_throws_with<FileError>([&] { trainer.train(TinyImages(16)); }, "the disk is full");
  for (std::size_t i = 0; i < weights.size(); ++i) expect_equal(model->parameters()[i].detach(), weights[i]);
}

TEST(TrainingConfig, NamesTheKeyAndTheValueThatCannotWork) {
  struct Case {
    void (*change)(TrainingConfig&);
    const char* message;
  };
  const std::vector<Case> cases{
      {[](TrainingConfig& c) { c.output_dir.clear(); }, "output_dir"},
      {[](TrainingConfig& c) { c.seed = -1; }, "seed is -1"},
      {[](TrainingConfig& c) { c.train_batch_size = 0; }, "train_batch_size is 0"},
      {[](TrainingConfig& c) { c.num_epochs = 0; }, "num_epochs is 0"},
      {[](TrainingConfig& c) { c.max_train_steps = 0; }, "max_train_steps is 0"},
      {[](TrainingConfig& c) { c.gradient_accumulation_steps = 0; }, "gradient_accumulation_steps is 0"},
      {[](TrainingConfig& c) { c.gradient_checkpointing = true; }, "gradient_checkpointing is true"},
      {[](TrainingConfig& c) { c.learning_rate = std::nan(""); }, "learning_rate is nan"},
      {[](TrainingConfig& c) { c.lr_warmup_steps = -2; }, "lr_warmup_steps is -2"},
      {[](TrainingConfig& c) { c.snr_gamma = -5.0; }, "snr_gamma is -5"},
      {[](TrainingConfig& c) { c.noise_offset = -0.1; }, "noise_offset is -0.1"},
      {[](TrainingConfig& c) { c.max_grad_norm = -1; }, "max_grad_norm is -1"},
      {[](TrainingConfig& c) { c.ema_max_decay = 2; }, "ema_max_decay is 2"},
      {[](TrainingConfig& c) { c.ema_inv_gamma = 0; }, "ema_inv_gamma is 0"},
      {[](TrainingConfig& c) { c.adam_beta1 = 1; }, "adam_beta1 is 1"},
      {[](TrainingConfig& c) { c.adam_epsilon = -1; }, "adam_epsilon is -1"},
      {[](TrainingConfig& c) { c.checkpoints_total_limit = 0; }, "checkpoints_total_limit is 0"},
      {[](TrainingConfig& c) { c.logging_steps = 0; }, "logging_steps is 0"},
      {[](TrainingConfig& c) { c.dataloader_num_workers = -1; }, "dataloader_num_workers is -1"},
      {[](TrainingConfig& c) { c.cpu_data_parallel = 0; }, "cpu_data_parallel is 0"},
      {[](TrainingConfig& c) { c.huber_c = 0; }, "huber_c is 0"},
  };
  for (const Case& one : cases) {
    TrainingConfig config = quiet_config("unused");
    one.change(config);
    expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); }, one.message);
  }
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.lr_scheduler = "cosinus";
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config).train(TinyImages(4)); },
                                  "lr_scheduler is \"cosinus\"");
  config = quiet_config(folder.path());
  config.resolution = 8;
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config).train(TinyImages(4)); },
                                  "resolution is 8");
}

TEST(DiffusionTask, TrainsWithEveryWayToDrawTimesteps) {
  for (const TimestepSampling strategy :
       {TimestepSampling::kUniform, TimestepSampling::kStratified, TimestepSampling::kAntithetic,
        TimestepSampling::kLogitNormal, TimestepSampling::kMode, TimestepSampling::kLossSecondMoment}) {
    const auto train = [&](int64_t batch_size, int64_t accumulation) {
      const test::TemporaryFolder folder;
      TinyNet model = seeded_net();
      TrainingConfig config = quiet_config(folder.path());
      config.train_batch_size = batch_size;
      config.gradient_accumulation_steps = accumulation;
      config.timestep_sampling = strategy;
      config.pyramid_noise_iterations = 2;
      config.num_epochs = 2;
      Trainer(model, DDPMScheduler({.num_train_timesteps = 5}), config).train(TinyImages(24));
      return copies(model->parameters());
    };
    const std::vector<Tensor> large = train(12, 1);
    const std::vector<Tensor> small = train(4, 3);
    for (std::size_t i = 0; i < large.size(); ++i)
      expect_close(small[i], large[i], 1e-4, 1e-5, enum_name(strategy));
  }
}

TEST(DiffusionTask, DrawsTheSigmasOfFlowMatching) {
  class Exposed : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
    using DiffusionTask::draw;
  };
  const auto timesteps = [](const FlowMatchEulerDiscreteScheduler& scheduler, bool continuous) {
    Exposed task(make_trainable(TinyNet()), scheduler);
    TrainingConfig config;
    config.continuous_timesteps = continuous;
    task.configure(config);
    task.begin_step({.step = 0, .samples = 2000, .generator = make_generator(1)});
    return task.draw(at::zeros({2000, 1, 2, 2})).timesteps;
  };
  const FlowMatchEulerDiscreteScheduler shifted({.shift = 3.0});
  const Tensor discrete = timesteps(shifted, false);
  EXPECT_TRUE(at::isin(discrete, shifted.timesteps()).all().item<bool>());
  const Tensor continuous = timesteps(shifted, true);
  EXPECT_LT(at::isin(continuous, shifted.timesteps()).sum().item<int64_t>(), 20);  // by rounding
  // Both are sigma T with sigma = 3 u / (1 + 2 u) of a uniform u.
  for (const Tensor& t : {discrete, continuous}) {
    const Tensor sigma = t / 1000;
    EXPECT_NEAR((sigma / (3 - 2 * sigma)).mean().item<double>(), 0.5, 0.03);
  }
  TrainingConfig config;
  config.continuous_timesteps = true;
  expect_throws_with<ConfigError>(
      [&] { Exposed(make_trainable(TinyNet()), DDPMScheduler()).configure(config); },
      "continuous_timesteps is true");
}

TEST(DiffusionTask, DrawsTimestepsOverTheWholeRange) {
  class Exposed : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
    using DiffusionTask::draw;
  };
  Exposed task(make_trainable(TinyNet()), DDPMScheduler());
  TrainingConfig config;
  config.noise_offset = 0.5;
  config.input_perturbation = 0.25;
  task.configure(config);
  task.begin_step({.step = 0, .samples = 4000, .generator = make_generator(1)});
  const Tensor x0 = at::zeros({4000, 2, 3, 3});
  const DiffusionTask::Draw drawn = task.draw(x0);

  // The same numbers by hand, in the order of train_text_to_image.py.
  Generator generator = make_generator(1);
  Tensor noise = at::randn(x0.sizes(), generator);
  noise = noise + 0.5 * at::randn({4000, 2, 1, 1}, generator);
  expect_equal(drawn.noise, noise);
  expect_equal(drawn.input_noise, noise + 0.25 * at::randn(x0.sizes(), generator));
  const Tensor timesteps = at::randint(0, 1000, {4000}, generator, at::kLong);
  expect_equal(drawn.timesteps, timesteps);
  EXPECT_LT(drawn.timesteps.min().item<int64_t>(), 10);
  EXPECT_GT(drawn.timesteps.max().item<int64_t>(), 989);
}

}  // namespace
}  // namespace diffusers
