#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/edm.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LabelledNet;
using test::TinyImages;
using test::TinyNet;

/// F as a formula of the scaled sample and c_noise.
using Formula = std::function<Tensor(const Tensor& sample, const Tensor& timesteps)>;

TrainableDenoiser formula_model(Formula formula) {
  return {make_saved_module(std::make_shared<torch::nn::Module>("Formula")),
          [formula = std::move(formula)](const Tensor& sample, const Tensor& timesteps, const Conditioning&) {
            return formula(sample, timesteps);
          }};
}

/// Noise levels and noise that are given instead of drawn.
class GivenEDMTask : public EDMTask {
 public:
  GivenEDMTask(Formula formula, const EDMConfig& config, Tensor sigma, Tensor noise)
      : EDMTask(formula_model(std::move(formula)), config),
        sigma_(std::move(sigma)),
        noise_(std::move(noise)) {
    configure({});
  }

 protected:
  Draw draw(const Tensor&) override { return {sigma_, noise_}; }

 private:
  Tensor sigma_, noise_;
};

Batch batch_of(const Tensor& images) {
  Batch batch;
  batch.images = images;
  return batch;
}

/// The network of tests/reference/edm.py.
Tensor reference_network(const Tensor& x, const Tensor& timesteps) {
  const Tensor c_noise = timesteps.view({-1, 1, 1, 1});
  return (3 * x + c_noise).sin() + 0.25 * x * c_noise;
}

TEST(EDMPreconditioner, MatchesPython) {
  const test::Golden golden = test::load_golden("edm.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 2U);
  for (const Json& one : cases) {
    const EDMPreconditioner edm(one.get<double>());
    const std::string name = one.dump() + ".";
    const auto expect = [&](const Tensor& actual, const std::string& key) {
      expect_close(actual, golden[name + key], 1e-10, 1e-12, name + key);
    };
    const Tensor& sigma = golden["sigma"];
    expect(edm.c_in(sigma), "c_in");
    expect(edm.c_skip(sigma), "c_skip");
    expect(edm.c_out(sigma), "c_out");
    expect(edm.c_noise(sigma), "c_noise");
    expect(edm.loss_weight(sigma), "weight");
    const Tensor& noisy = golden[name + "noisy"];
    expect(edm.precondition_inputs(noisy, sigma), "inputs");
    const Denoiser model = formula_model(reference_network).denoise;
    expect(edm.denoise(model, noisy, sigma), "denoised");
    // One noise level for all samples.
    expect_close(edm.denoise(model, noisy, sigma[3]).select(0, 3), golden[name + "denoised"][3], 1e-10,
                 1e-12);
  }
}

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
  expect_close(task.loss(batch, 0).loss, golden["0.5.loss"], 1e-10, 1e-12);  // u is 0 at first

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

  // The first position that there is has a finite loss as well.
  const Tensor first =
      task.validation_loss(batch_of(x0.slice(0, 0, 1)), at::zeros({1}, at::kDouble), make_generator(2));
  EXPECT_TRUE(first.isfinite().all().item<bool>());
}

TEST(EDMPreconditioner, IsTheIdentityWithoutNoise) {
  const EDMPreconditioner edm;
  const Denoiser model = formula_model(reference_network).denoise;
  const Tensor x = at::linspace(-3, 3, 24, at::kDouble).view({2, 1, 3, 4});
  expect_close(edm.denoise(model, x, at::full({}, 1e-10, at::kDouble)), x, 1e-8, 1e-8);
}

TEST(EDMPreconditioner, GivesTheModelInputsAndTargetsOfUnitVariance) {
  const Generator generator = make_generator(6);
  for (const double sigma_data : {0.5, 2.0}) {
    const EDMPreconditioner edm(sigma_data);
    for (const double level : {0.01, 0.5, 40.0}) {
      const Tensor x0 = sigma_data * at::randn({1, 200'000}, generator);
      const Tensor noise = at::randn({1, 200'000}, generator);
      const Tensor sigma = at::full({1}, level);
      // Four standard deviations of the estimate, sqrt(2 / n).
      EXPECT_NEAR(edm.target(x0, noise, sigma).var().item<double>(), 1, 0.013) << level;
      EXPECT_NEAR(edm.precondition_inputs(x0 + level * noise, sigma).var().item<double>(), 1, 0.013) << level;
    }
  }
}

TEST(EDMTask, HasNoLossWhereThePredictionIsPerfect) {
  const EDMPreconditioner edm;
  const Tensor x0 = at::linspace(-1, 1, 24, at::kDouble).view({2, 1, 3, 4});
  const Tensor noise = (17 * x0).sin();
  const Tensor sigma = at::tensor({0.01, 7.0}, at::kDouble);
  Tensor target = edm.target(x0, noise, sigma);
  const auto perfect = [&](const Tensor&, const Tensor&) { return target; };
  GivenEDMTask task(perfect, {}, sigma, noise);
  expect_equal(task.loss(batch_of(x0), 0).loss, at::zeros({2}, at::kDouble));
  const Denoiser model = formula_model(perfect).denoise;
  expect_close(edm.denoise(model, x0 + sigma.view({2, 1, 1, 1}) * noise, sigma), x0, 1e-12, 1e-12);
}

/// Data x_0 ~ N(mean, deviation^2), whose best denoiser is known, and F solved from it.
struct GaussianData {
  double mean = 0.3;
  double deviation = 0.8;  // not sigma_data, with which F would be 0 everywhere

  Tensor denoised(const Tensor& x, const Tensor& sigma) const {
    const Tensor variance = sigma * sigma;
    return (deviation * deviation * x + variance * mean) / (deviation * deviation + variance);
  }
  Formula best_model(const EDMPreconditioner& edm) const {
    return [*this, edm](const Tensor& input, const Tensor& c_noise) {
      const Tensor sigma = (4 * c_noise.to(at::kDouble)).exp().view({-1, 1, 1, 1});
      const Tensor x = input / edm.c_in(sigma);
      return (denoised(x, sigma) - edm.c_skip(sigma) * x) / edm.c_out(sigma);
    };
  }
};

TEST(EDMTask, HasTheLossOfTheBestDenoiserOnGaussianData) {
  const GaussianData data;
  const Generator generator = make_generator(5);
  const Tensor sigma = at::tensor({0.05, 0.5, 10.0}, at::kDouble);
  const Tensor x0 = data.mean + data.deviation * at::randn({3, 1, 200, 200}, generator, at::kDouble);
  const Tensor noise = at::randn(x0.sizes(), generator, at::kDouble);
  const EDMPreconditioner edm;
  GivenEDMTask task(data.best_model(edm), {}, sigma, noise);
  // The variance of x_0 given x, times lambda; the mean of 40000 squares is as close as that.
  const double s2 = data.deviation * data.deviation;
  const Tensor variance = s2 * sigma * sigma / (s2 + sigma * sigma);
  expect_close(task.loss(batch_of(x0), 0).loss, edm.loss_weight(sigma) * variance, 0.03, 0);
}

TEST(EDMTask, TheBestModelSamplesTheDataWithItsScheduler) {
  const GaussianData data;
  const EDMTask task(formula_model(data.best_model(EDMPreconditioner())));
  EDMEulerScheduler scheduler = task.scheduler();
  const Denoiser model = formula_model(data.best_model(task.preconditioner())).denoise;
  scheduler.set_timesteps(200);
  const Tensor start = scheduler.init_noise_sigma() * at::randn({64, 1, 16, 16}, make_generator(1));
  Tensor x = start;
  for (const Tensor& t : scheduler.timesteps()) {
    const Tensor output = model(scheduler.scale_model_input(x, t), t.expand({64}), {});
    x = scheduler.step(output.to(at::kFloat), t, x).prev_sample;
  }
  // Euler's steps of the flow dx/dsigma = (x - D) / sigma, which is linear here: what they do to x - mean.
  const Tensor sigmas = scheduler.sigmas().to(at::kDouble);
  const double* sigma = sigmas.const_data_ptr<double>();
  double factor = 1;
  for (int64_t i = 0; i + 1 < sigmas.numel(); ++i)
    factor *=
        1 + (sigma[i + 1] - sigma[i]) * sigma[i] / (data.deviation * data.deviation + sigma[i] * sigma[i]);
  expect_close(x, data.mean + factor * (start - data.mean), 1e-4, 1e-4);
  // And that is the data, up to the error of the steps and of 16384 draws.
  EXPECT_NEAR(x.std().item<double>(), data.deviation, 0.03);
  EXPECT_NEAR(x.mean().item<double>(), data.mean, 0.03);
}

TrainingConfig short_training(const std::string& output_dir) {
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

TinyNet edm_net(double dropout = 0.0) {
  manual_seed(11);
  return TinyNet(dropout);
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
  TrainingConfig config = short_training(folder.path());
  config.num_epochs = 40;
  config.use_ema = true;
  const EDMConfig edm{
      .sigma_data = 0.7, .sigma_min = 0.01, .sigma_max = 50.0, .log_variance = LogVarianceType::kFourier};
  const auto task = std::make_shared<EDMTask>(make_trainable(edm_net()), edm);
  Trainer trainer(task, config);
  const Batch held_out = batch_of(TinyImages(30).images());
  const auto validate = [&] {
    const at::NoGradGuard no_grad;
    const Tensor positions = (at::arange(30, at::kDouble) + 0.5) / 30;
    return task->validation_loss(held_out, positions, make_generator(1)).mean().item<double>();
  };
  const double before = validate();
  EXPECT_GT(before, 0.9);  // an untrained F gives nearly nothing, and its target has a variance of 1
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

TEST(EDMTask, AccumulationEqualsTheLargeBatch) {
  const TinyImages images(22);
  const auto train = [&](int64_t batch_size, int64_t accumulation) {
    const test::TemporaryFolder folder;
    TrainingConfig config = short_training(folder.path());
    config.train_batch_size = batch_size;
    config.gradient_accumulation_steps = accumulation;
    config.num_epochs = 2;
    const auto task = std::make_shared<EDMTask>(make_trainable(edm_net()),
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
    TrainingConfig config = short_training(folder);
    config.train_batch_size = 3;
    config.gradient_accumulation_steps = 2;
    config.max_train_steps = 6;
    config.checkpointing_steps = 6;
    config.use_ema = true;
    if (resumes) config.resume_from_checkpoint = "latest";
    // Another process would draw other weights and other frequencies; they come from the checkpoint.
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
  // By hand: noise levels before noise, as in EDM's code, for all samples of the step.
  const Generator generator = make_generator(1);
  const Tensor sigma = (-0.4 + 1.5 * at::randn({6}, generator)).exp();
  const Tensor noise = at::randn({6, 2, 3, 3}, generator);
  expect_equal(at::cat({first.sigma, last.sigma}), sigma);
  expect_equal(at::cat({first.noise, last.noise}), noise);
  EXPECT_FALSE(first.is_unconditional.defined());
}

TEST(EDMTask, GivesAndDropsLabels) {
  const test::TemporaryFolder folder;
  TrainingConfig config = short_training(folder.path());
  config.overwrite_output_dir = true;
  config.train_batch_size = 1000;
  const TinyImages images(1000, /*has_labels=*/true, /*side=*/1);
  LabelledNet model;
  model->facts.num_class_embeds = 11;
  const auto train = [&] { Trainer(std::make_shared<EDMTask>(make_trainable(model)), config).train(images); };
  train();
  EXPECT_EQ((model->last_labels == 10).sum().item<int64_t>(), 0);
  config.class_dropout_prob = 0.3;
  train();
  // Four standard deviations.
  EXPECT_NEAR((model->last_labels == 10).sum().item<double>(), 300.0, 60.0);
  config.class_conditional = false;
  expect_throws_with<ConfigError>(train, "class_dropout_prob is 0.3");
  config.class_dropout_prob = 0;
  train();
  EXPECT_FALSE(model->last_labels.defined());
}

TEST(EDMTask, ServesTheOptionsOfTheLoop) {
  const auto train = [](const std::function<void(TrainingConfig&)>& change, double dropout = 0.0) {
    const test::TemporaryFolder folder;
    TrainingConfig config = short_training(folder.path());
    config.max_train_steps = 3;
    config.weighting = LossWeighting::kEdm;  // what it is anyway
    change(config);
    const auto task = std::make_shared<EDMTask>(make_trainable(edm_net(dropout)),
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

TEST(EDMTask, NamesTheFlagThatItHasNoPlaceFor) {
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
      {[](C& c) { c.p2_gamma = 0.5; }, "p2_gamma is 0.5"},
      {[](C& c) { c.p2_k = 2; }, "p2_k is 2"},
      {[](C& c) { c.l_simple_weight = 0.5; }, "l_simple_weight is 0.5"},
      {[](C& c) { c.original_elbo_weight = 0.5; }, "original_elbo_weight is 0.5"},
      {[](C& c) { c.vlb_weight = 0.5; }, "vlb_weight is 0.5"},
      {[](C& c) { c.timestep_sampling = TimestepSampling::kStratified; },
       "timestep_sampling is \"stratified\""},
      {[](C& c) { c.logit_mean = 0.5; }, "logit_mean is 0.5"},
      {[](C& c) { c.logit_std = 0.5; }, "logit_std is 0.5"},
      {[](C& c) { c.mode_scale = 0.5; }, "mode_scale is 0.5"},
      {[](C& c) { c.timestep_bias_strategy = TimestepBias::kLater; }, "timestep_bias_strategy is \"later\""},
      {[](C& c) { c.timestep_bias_multiplier = 0.5; }, "timestep_bias_multiplier is 0.5"},
      {[](C& c) { c.timestep_bias_begin = 5; }, "timestep_bias_begin is 5"},
      {[](C& c) { c.timestep_bias_end = 5; }, "timestep_bias_end is 5"},
      {[](C& c) { c.timestep_bias_portion = 0.5; }, "timestep_bias_portion is 0.5"},
      {[](C& c) { c.continuous_timesteps = true; }, "continuous_timesteps is true"},
      {[](C& c) { c.pyramid_noise_iterations = 2; }, "pyramid_noise_iterations is 2"},
      {[](C& c) { c.pyramid_noise_discount = 0.5; }, "pyramid_noise_discount is 0.5"},
      {[](C& c) { c.learned_log_variance = LogVarianceType::kFourier; },
       "learned_log_variance is \"fourier\""},
      {[](C& c) { c.logvar_init = 0.5; }, "logvar_init is 0.5"},
      {[](C& c) { c.weighting = LossWeighting::kMinSnr; }, "weighting is \"min_snr\""},
      {[](C& c) { c.sigma_data = 0.6; }, "sigma_data is 0.6"},
  };
  for (const auto& [change, part] : changes) expect_throws_with<ConfigError>(with(change), part);
  EXPECT_NO_THROW(with([](C& c) { c.sigma_data = 0.7; })());
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

  // A model with twice the channels, and noise levels for other samples than there are.
  const EDMPreconditioner edm;
  const Denoiser twice = formula_model([](const Tensor& x, const Tensor&) {
                           return at::cat({x, x}, 1);
                         }).denoise;
  const Tensor x = at::zeros({2, 1, 3, 3});
  expect_throws_with<TensorError>([&] { edm.denoise(twice, x, at::ones({2})); }, "float32 [2, 2, 3, 3]");
  expect_throws_with<TensorError>([&] { edm.denoise(twice, x, at::ones({3})); }, "sigma is float32 [3]");
  expect_throws_with<TensorError>([&] { edm.precondition_inputs(at::zeros({2}, at::kLong), at::ones({2})); },
                                  "int64 [2]");
  expect_throws_with<Error>([&] { EDMTask(make_trainable(TinyNet())).loss(batch_of(x), 0).loss; },
                            "configure() was not called");
}

}  // namespace
}  // namespace diffusers
