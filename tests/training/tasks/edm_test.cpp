#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/formula_model.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::batch_of;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::formula_model;
using test::GivenEDMTask;
using test::LabelledNet;
using test::quiet_config;
using test::reference_network;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

TEST(EDMTask, LossMatchesPython) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  for (const double sigma_data : {0.5, 1.3}) {
    GivenEDMTask task(reference_network, {.sigma_data = sigma_data}, golden["sigma"], golden["noise"]);
    expect_close(task.loss(batch_of(golden["x0"]), 0).loss, golden[Json(sigma_data).dump() + ".loss"], 1e-10,
                 1e-12);
  }
}

TEST(EDMTask, DividesByTheLearnedVarianceOfTheLoss) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  GivenEDMTask task(reference_network, {.log_variance = LogVarianceType::kFourier}, golden["sigma"],
                    golden["noise"]);
  ASSERT_EQ(task.trained().size(), 2U);
  EXPECT_EQ(task.trained()[1].name, "log_variance");
  const Batch batch = batch_of(golden["x0"]);
  expect_close(task.loss(batch, 0).loss, golden["0.5.loss"], 1e-10, 1e-12);  // u is initialised to 0

  auto* log_variance = task.trained()[1].module->module().as<LearnedLogVarianceImpl>();
  ASSERT_NE(log_variance, nullptr);
  const at::NoGradGuard no_grad;
  log_variance->parameters()[0].copy_(at::linspace(-0.1, 0.1, 128));
  const Tensor u = log_variance->forward(golden["0.5.c_noise"]).to(at::kDouble);
  EXPECT_GT(u.abs().max().item<double>(), 0.1);
  expect_close(task.loss(batch, 0).loss, golden["0.5.loss"] / u.exp() + u, 1e-10, 1e-12);
}

TEST(EDMTask, ValidatesAtQuantilesOfTheNoiseLevels) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  Tensor seen;
  EDMTask task(formula_model([&](const Tensor& x, const Tensor& c_noise) {
                 seen = c_noise;
                 return x;
               }),
               {.log_variance = LogVarianceType::kFourier});
  task.configure({});
  const Tensor x0 = golden["x0"].slice(0, 0, 5);
  const Tensor losses = task.validation_loss(batch_of(x0), golden["position"], make_generator(2));
  const Tensor& sigma = golden["position.sigma"];
  expect_close((4 * seen).exp(), sigma, 1e-10, 1e-12);
  const Tensor noise = at::randn(x0.sizes(), make_generator(2), x0.options());
  GivenEDMTask given([](const Tensor& x, const Tensor&) { return x; }, {}, sigma, noise);
  expect_close(losses, given.loss(batch_of(x0), 0).loss, 1e-10, 1e-12);

  // The loss at the lowest position 0 is finite, too.
  const Tensor first =
      task.validation_loss(batch_of(x0.slice(0, 0, 1)), at::zeros({1}, at::kDouble), make_generator(2));
  EXPECT_TRUE(first.isfinite().all().item<bool>());
}

std::vector<Tensor> parameters_of(const Task& task) {
  std::vector<Tensor> result;
  for (const NamedModule& trained : task.trained())
    for (const Tensor& parameter : trained.module->module().parameters())
      result.push_back(parameter.detach().clone());
  return result;
}

TEST(EDMTask, LearnsAndLeavesAFolderToSampleFrom) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.num_epochs = 40;
  config.use_ema = true;
  const EDMConfig edm{
      .sigma_data = 0.7, .sigma_min = 0.01, .sigma_max = 50.0, .log_variance = LogVarianceType::kFourier};
  const auto task = std::make_shared<EDMTask>(make_trainable(seeded_net()), edm);
  Trainer trainer(task, config);
  const Batch held_out = batch_of(TinyImages(30).images());
  const auto validate = [&] {
    const at::NoGradGuard no_grad;
    const Tensor positions = (at::arange(30, at::kDouble) + 0.5) / 30;
    return task->validation_loss(held_out, positions, make_generator(1)).mean().item<double>();
  };
  const double before = validate();
  EXPECT_GT(before, 0.9);  // an untrained F predicts almost 0, and its target has a variance of 1
  trainer.train(TinyImages(20));
  EXPECT_LT(validate(), 0.75 * before);
  EXPECT_GT(task->trained()[1].module->module().parameters()[0].abs().max().item<double>(), 0.0);

  const EDMEulerScheduler scheduler = EDMEulerScheduler::from_pretrained(folder / "scheduler");
  EXPECT_EQ(scheduler.config().sigma_data, 0.7);
  EXPECT_EQ(scheduler.config().sigma_min, 0.01);
  EXPECT_EQ(scheduler.config().sigma_max, 50.0);
  EXPECT_EQ(scheduler.config().prediction_type, PredictionType::kEpsilon);
  EXPECT_TRUE(file_exists(folder / "unet/diffusion_pytorch_model.safetensors"));
  const Tensor c_noise = at::linspace(-1.5, 1.1, 5);
  auto* log_variance = task->trained()[1].module->module().as<LearnedLogVarianceImpl>();
  ASSERT_NE(log_variance, nullptr);
  expect_equal(LearnedLogVariance::from_pretrained(folder / "log_variance")->forward(c_noise),
               log_variance->forward(c_noise));
}

TEST(EDMTask, NamesAPipelineOfPythonThatSamplesWithItsScheduler) {
  const test::TemporaryFolder folder;
  EDMTask task(UNet2DModel({.sample_size = 8,
                            .in_channels = 1,
                            .out_channels = 1,
                            .down_block_types = {"DownBlock2D"},
                            .up_block_types = {"UpBlock2D"},
                            .block_out_channels = {8},
                            .layers_per_block = 1,
                            .norm_num_groups = 4}));
  task.configure({});
  task.save_extras(folder.path());
  const Json index = parse_json(read_text_file(folder / "model_index.json"), "model_index.json");
  EXPECT_EQ(index.at("_class_name"), "ConsistencyModelPipeline");
  EXPECT_EQ(index.at("scheduler"), Json({"diffusers", "EDMEulerScheduler"}));
  EXPECT_EQ(index.at("unet"), Json({"diffusers", "UNet2DModel"}));
  EXPECT_FALSE(file_exists(folder / "noise_schedule.svg"));  // no table of timesteps
}

TEST(EDMTask, AccumulationEqualsTheLargeBatch) {
  const TinyImages images(22);
  const auto train = [&](int64_t batch_size, int64_t accumulation) {
    const test::TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = batch_size;
    config.gradient_accumulation_steps = accumulation;
    config.num_epochs = 2;
    const auto task = std::make_shared<EDMTask>(make_trainable(seeded_net()),
                                                EDMConfig{.log_variance = LogVarianceType::kFourier});
    EXPECT_EQ(Trainer(task, config).train(images).global_step, 4);
    return parameters_of(*task);
  };
  const std::vector<Tensor> large = train(12, 1);
  const std::vector<Tensor> small = train(4, 3);
  for (std::size_t i = 0; i < large.size(); ++i) expect_close(small[i], large[i], 1e-4, 1e-5);
}

TEST(EDMTask, ResumesBitForBit) {
  const TinyImages images(18);
  const auto train_until = [&](const std::string& folder, int64_t stop, bool resumes) {
    TrainingConfig config = quiet_config(folder);
    config.train_batch_size = 3;
    config.gradient_accumulation_steps = 2;
    config.max_train_steps = 6;
    config.checkpointing_steps = 6;
    config.use_ema = true;
    if (resumes) config.resume_from_checkpoint = "latest";
    // A new process draws other weights and frequencies. On resume they are loaded from the checkpoint.
    manual_seed(resumes ? 99 : 11);
    const auto task = std::make_shared<EDMTask>(make_trainable(TinyNet(0.2)),
                                                EDMConfig{.log_variance = LogVarianceType::kFourier});
    Trainer trainer(task, config);
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    return trainer.train(images).is_complete;
  };
  const test::TemporaryFolder whole;
  EXPECT_TRUE(train_until(whole.path(), -1, false));
  const test::TemporaryFolder parts;
  EXPECT_FALSE(train_until(parts.path(), 2, false));
  EXPECT_TRUE(train_until(parts.path(), -1, true));
  for (const char* name :
       {"unet/diffusion_pytorch_model.safetensors", "unet_ema/diffusion_pytorch_model.safetensors",
        "log_variance/diffusion_pytorch_model.safetensors",
        "log_variance_ema/diffusion_pytorch_model.safetensors", "optimizer.safetensors",
        "trainer_state.safetensors"})
    EXPECT_EQ(read_text_file(join_path(parts / "checkpoint-6", name)),
              read_text_file(join_path(whole / "checkpoint-6", name)))
        << name;
}

TEST(EDMTask, DrawsLogNormalNoiseLevels) {
  class Exposed : public EDMTask {
   public:
    using EDMTask::draw;
    using EDMTask::EDMTask;
  };
  Exposed task(make_trainable(TinyNet()), EDMConfig{.p_mean = -0.4, .p_std = 1.5});
  task.configure({});
  task.begin_step({.step = 0, .samples = 6, .generator = make_generator(1)});
  const Tensor x0 = at::zeros({4, 2, 3, 3});
  const EDMTask::Draw first = task.draw(x0);
  const EDMTask::Draw last = task.draw(x0.slice(0, 0, 2));
  // The expected numbers are drawn for all samples of the step: noise levels before noise, as in EDM's code.
  const Generator generator = make_generator(1);
  const Tensor sigma = (-0.4 + 1.5 * at::randn({6}, generator)).exp();
  const Tensor noise = at::randn({6, 2, 3, 3}, generator);
  expect_equal(at::cat({first.timesteps, last.timesteps}), sigma);
  expect_equal(at::cat({first.noise, last.noise}), noise);
  EXPECT_FALSE(first.is_unconditional.defined());
}

TEST(EDMTask, GivesAndDropsLabels) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.overwrite_output_dir = true;
  config.train_batch_size = 1000;
  const TinyImages images(1000, /*has_labels=*/true, /*side=*/1);
  LabelledNet model;
  model->facts.num_class_embeds = 11;
  const auto train = [&](const EDMConfig& edm) {
    Trainer(std::make_shared<EDMTask>(model, edm), config).train(images);
  };
  train({});
  EXPECT_EQ((model->last_labels == 10).sum().item<int64_t>(), 0);
  train({.class_dropout_prob = 0.3});
  // Four standard deviations.
  EXPECT_NEAR((model->last_labels == 10).sum().item<double>(), 300.0, 60.0);
  expect_throws_with<ConfigError>([&] { train({.class_conditional = false, .class_dropout_prob = 0.3}); },
                                  "class_dropout_prob is 0.3");
  train({.class_conditional = false});
  EXPECT_FALSE(model->last_labels.defined());
  // A function that computes the conditioning replaces the labels.
  train({.conditioning = [](const Batch& batch) {
    return Conditioning{.class_labels = at::full_like(batch.class_labels, 7)};
  }});
  EXPECT_TRUE((model->last_labels == 7).all().item<bool>());
}

TEST(EDMTask, ServesTheOptionsOfTheLoop) {
  const auto train = [](const std::function<void(TrainingConfig&)>& change, double dropout = 0.0) {
    const test::TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.max_train_steps = 3;
    change(config);
    const auto task = std::make_shared<EDMTask>(make_trainable(seeded_net(dropout)),
                                                EDMConfig{.log_variance = LogVarianceType::kFourier});
    Trainer(task, config).train(TinyImages(12));
    return parameters_of(*task);
  };
  const std::vector<Tensor> plain = train([](TrainingConfig&) {});
  const std::vector<Tensor> parallel = train([](TrainingConfig& config) { config.cpu_data_parallel = 3; });
  const std::vector<Tensor> half =
      train([](TrainingConfig& config) { config.mixed_precision = MixedPrecision::kBf16; });
  for (std::size_t i = 0; i < plain.size(); ++i) {
    expect_close(parallel[i], plain[i], 1e-4, 1e-5);
    expect_close(half[i], plain[i], 0.02, 0.02);
  }
  expect_throws_with<ConfigError>(
      [&] { train([](TrainingConfig& config) { config.cpu_data_parallel = 3; }, 0.2); }, "dropout 0.2");
  expect_throws_with<ConfigError>(
      [&] { train([](TrainingConfig& config) { config.gradient_checkpointing = true; }); },
      "gradient_checkpointing is true");
  expect_throws_with<ConfigError>([&] { train([](TrainingConfig& config) { config.resolution = 8; }); },
                                  "resolution is 8");
}

TEST(EDMTask, NamesTheFlagThatItDoesNotUse) {
  const auto with = [](const std::function<void(TrainingConfig&)>& change) {
    return [=] {
      TrainingConfig config;
      change(config);
      EDMTask(make_trainable(TinyNet()), EDMConfig{.sigma_data = 0.7}).configure(config);
    };
  };
  using C = TrainingConfig;
  const std::vector<std::pair<std::function<void(C&)>, const char*>> changes{
      {[](C& c) { c.snr_gamma = 5.0; }, "snr_gamma is 5"},
      {[](C& c) { c.noise_offset = 0.1; }, "noise_offset is 0.1"},
      {[](C& c) { c.input_perturbation = 0.1; }, "input_perturbation is 0.1"},
      {[](C& c) { c.loss_type = LossType::kHuber; }, "loss_type is \"huber\""},
      {[](C& c) { c.huber_schedule = HuberSchedule::kSnr; }, "huber_schedule is \"snr\""},
      {[](C& c) { c.huber_c = 0.2; }, "huber_c is 0.2"},
      {[](C& c) { c.logit_mean = 0.5; }, "logit_mean is 0.5"},
      {[](C& c) { c.logit_std = 0.5; }, "logit_std is 0.5"},
      {[](C& c) { c.mode_scale = 0.5; }, "mode_scale is 0.5"},
      {[](C& c) { c.timestep_bias_strategy = TimestepBias::kLater; }, "timestep_bias_strategy is \"later\""},
      {[](C& c) { c.timestep_bias_multiplier = 0.5; }, "timestep_bias_multiplier is 0.5"},
      {[](C& c) { c.timestep_bias_begin = 5; }, "timestep_bias_begin is 5"},
      {[](C& c) { c.timestep_bias_end = 5; }, "timestep_bias_end is 5"},
      {[](C& c) { c.timestep_bias_portion = 0.5; }, "timestep_bias_portion is 0.5"},
  };
  for (const auto& [change, part] : changes) expect_throws_with<ConfigError>(with(change), part);
  EXPECT_NO_THROW(with([](C&) {})());
}

TEST(EDMTask, RefusesWhatItCannotTrain) {
  const auto making = [](const EDMConfig& config) {
    return [=] { EDMTask(make_trainable(TinyNet()), config); };
  };
  expect_throws_with<ConfigError>(making({.sigma_data = 0}), "sigma_data is 0");
  expect_throws_with<ConfigError>(making({.p_mean = NAN}), "p_mean is nan");
  expect_throws_with<ConfigError>(making({.p_std = 0}), "p_std is 0");
  expect_throws_with<ConfigError>(making({.sigma_min = 3, .sigma_max = 2}), "sigma_min is 3");
  expect_throws_with<ConfigError>(making({.log_variance = LogVarianceType::kTable}),
                                  "log_variance is \"table\"");
  expect_throws_with<ConfigError>([] { EDMTask(TrainableDenoiser(nullptr, {})); }, "there is no model");

  LabelledNet model;
  model->facts.time_embedding_type = "fourier";
  EDMTask task(make_trainable(model));
  expect_throws_with<ConfigError>([&] { task.configure({}); },
                                  "time_embedding_type of the model is \"fourier\"");

  expect_throws_with<Error>(
      [] {
        EDMTask(TinyNet()).loss(batch_of(at::zeros({2, 1, 3, 3})), 0);
      },
      "configure() was not called");
}

}  // namespace
}  // namespace diffusers
