#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "models/vae/training_golden.h"
#include "support/golden.h"
#include "training/tiny_autoencoder_training.h"

namespace diffusers::test {
namespace {

/// Learns given images, step after step, instead of those of the dataset.
class GivenImages : public AutoencoderTask {
 public:
  template <class Model, class Loss>
  GivenImages(Model model, Loss loss, Tensor images)
      : AutoencoderTask(std::move(model), std::move(loss)), images_(std::move(images)) {}
  void begin_step(const StepContext& context) override {
    AutoencoderTask::begin_step(context);
    step_ = context.step;
  }
  StepLoss loss(const Batch& batch, std::size_t update) override {
    Batch given = batch;
    given.images = images_[step_];
    return AutoencoderTask::loss(given, update);
  }

 private:
  Tensor images_;
  int64_t step_ = 0;
};

Tensor flat_parameters(const torch::nn::Module& module) {
  std::vector<Tensor> parts;
  for (const Tensor& parameter : module.parameters()) parts.push_back(parameter.detach().flatten());
  return at::cat(parts);
}

double logged(const TrainingProgress& progress, const std::string& name) {
  for (const auto& [key, value] : progress.values)
    if (key == name) return value;
  return 0;
}

template <class Loss, class Config>
Loss golden_loss(const Json& one, Config config, at::ScalarType dtype) {
  const Json& fields = one.at("loss");
  config.disc_start = fields.at("disc_start").get<int64_t>();
  config.disc_weight = fields.value("disc_weight", 1.0);
  config.perceptual_weight = fields.value("perceptual_weight", 1.0);
  config.disc_loss = fields.value("disc_loss", std::string("hinge")).c_str();
  config.pixel_loss = fields.value("pixel_loss", std::string("l1")).c_str();
  return Loss(config, config.perceptual_weight > 0 ? golden_lpips("alex", dtype) : LPIPS(nullptr),
              tiny_discriminator(one.value("use_actnorm", false)));
}

void follow_python(const Json& one, at::ScalarType dtype) {
  const auto& golden = training_golden();
  const bool is_double = dtype == at::kDouble;
  const auto key = one.at("name").get<std::string>() + (is_double ? ".float64" : ".float32");
  const double tolerance = is_double ? 1e-9 : 1e-4;
  const bool is_kl = one.at("kind") == "kl";
  const Tensor images = golden["trajectory.images"].to(dtype);
  std::shared_ptr<AutoencoderTask> task;
  NLayerDiscriminator disc{nullptr};
  Tensor logvar;
  if (is_kl) {
    LPIPSWithDiscriminatorConfig config;
    config.kl_weight = one.at("loss").value("kl_weight", 1.0);
    config.logvar_init = one.at("loss").value("logvar_init", 0.0);
    const auto loss = golden_loss<LPIPSWithDiscriminator>(one, config, dtype);
    disc = loss->discriminator;
    logvar = loss->logvar;
    AutoencoderKL model = tiny_kl();
    model->to(dtype);
    task = std::make_shared<GivenImages>(model, loss, images);
  } else {
    VQLPIPSWithDiscriminatorConfig config;
    config.codebook_weight = one.at("loss").value("codebook_weight", 1.0);
    const auto loss = golden_loss<VQLPIPSWithDiscriminator>(one, config, dtype);
    disc = loss->discriminator;
    VQModel model = tiny_vq();
    model->to(dtype);
    task = std::make_shared<GivenImages>(model, loss, images);
  }

  const TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = images.size(0);
  config.train_batch_size = images.size(1);
  config.optimizer = "adam";
  config.learning_rate = 1e-3;
  config.adam_beta1 = 0.5;
  config.adam_beta2 = 0.9;
  config.adam_weight_decay = 0;
  config.max_grad_norm = 0;
  Trainer trainer(task, config);
  std::vector<double> values;
  trainer.on_log([&](const TrainingProgress& progress) {
    values.push_back(progress.loss);
    for (const char* name :
         {"nll_loss", is_kl ? "kl_loss" : "codebook_loss", "g_loss", "d_weight", "discriminator/loss"})
      values.push_back(logged(progress, name));
  });
  trainer.train(TensorDataset(at::zeros({4, 3, 16, 16})));

  const Tensor& expected = golden[key + ".values"];
  const Tensor actual = at::tensor(values, at::kDouble).view({-1, 6});
  const char* names[] = {"loss", "nll_loss", "kl_loss or codebook_loss", "g_loss", "d_weight", "d_loss"};
  for (int64_t i = 0; i < 6; ++i) {
    // The adaptive weight is a quotient by a small gradient, whose rounding errors are relatively larger.
    const double allowed = i == 4 && !is_double ? 1e-3 : tolerance;
    expect_close(actual.select(1, i), expected.select(1, i), allowed, allowed, key + " " + names[i]);
  }
  Tensor weights = flat_parameters(task->trained().front().module->module());
  if (is_kl) weights = at::cat({weights, logvar.detach().flatten()});
  expect_close(weights, golden[key + ".model"], tolerance, tolerance, key + " weights");
  std::vector<Tensor> state;
  for (const auto& [name, tensor] : state_dict(disc)) state.push_back(tensor.flatten().to(dtype));
  expect_close(at::cat(state), golden[key + ".discriminator"], tolerance, tolerance, key + " discriminator");
}

TEST(AutoencoderTask, FollowsPythonOverTenSteps) {
  const Json cases = training_cases("trajectory");
  ASSERT_EQ(cases.size(), 4U);
  for (const Json& one : cases)
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) follow_python(one, dtype);
}

TEST(AutoencoderTask, WritesAModelFolder) {
  const TemporaryFolder folder;
  const auto task = tiny_task(/*is_kl=*/true);
  TrainingConfig config = autoencoder_config(folder.path());
  config.use_ema = false;
  Trainer(task, config).train(colour_images(7));
  const AutoencoderKL vae = AutoencoderKL::from_pretrained(folder / "vae");
  expect_equal(flat_parameters(*vae), flat_parameters(task->trained().front().module->module()));
  EXPECT_TRUE(folder_exists(folder / "discriminator"));
  EXPECT_TRUE(folder_exists(folder / "logvar"));
  EXPECT_FALSE(folder_exists(folder / "checkpoint-8/lpips"));
}

TEST(AutoencoderTask, LearnsToReconstruct) {
  for (const bool is_kl : {true, false}) {
    const TemporaryFolder folder;
    TrainingConfig config = autoencoder_config(folder.path());
    config.max_train_steps = 60;
    config.learning_rate = 5e-3;
    config.use_ema = false;
    config.checkpointing_steps = 0;
    config.validation_steps = 30;
    config.validation_bins = 1;
    Trainer trainer(tiny_task(is_kl, /*disc_start=*/1000), config);
    std::vector<ValidationResult> validations;
    trainer.on_validation([&](const ValidationResult& result) { validations.push_back(result); });
    // Smooth images, which few latents can hold.
    const Tensor images =
        at::upsample_bilinear2d(drawn_images(make_generator(5), {6, 3, 2, 2}), {16, 16}, false);
    trainer.train(TensorDataset(images), TensorDataset(images));
    ASSERT_EQ(validations.size(), 2U);
    // Better than gray images, and better than before.
    EXPECT_LT(validations[1].loss, 0.9 * images.abs().mean().item<double>());
    EXPECT_LT(validations[1].loss, validations[0].loss);
  }
}

TEST(AutoencoderTask, ValidatesWithTheSignalToNoiseRatioAndLPIPS) {
  const LPIPS lpips = golden_lpips("alex", at::kFloat);
  AutoencoderKL vae = tiny_kl();
  AutoencoderTask task(vae, LPIPSWithDiscriminator({.disc_factor = 0, .perceptual_weight = 0.5}, lpips));
  ASSERT_EQ(task.frozen().size(), 1U);
  EXPECT_EQ(task.frozen()[0].name, "lpips");
  EXPECT_EQ(task.updates({}).size(), 1U);  // no discriminator
  task.configure({});
  const at::NoGradGuard no_grad;
  const Batch batch{.images = colour_images(3).samples().images};
  const StepLoss result = task.validate(batch);
  const Tensor made = vae->forward(batch.images).sample;
  const Tensor pixel = (batch.images - made).abs().flatten(1).mean(1);
  const Tensor distances = lpips(batch.images, made).flatten();
  expect_close(result.loss, pixel + 0.5 * distances, 1e-5, 1e-6);
  ASSERT_EQ(result.values.size(), 4U);
  EXPECT_EQ(result.values[1].name, "psnr");
  const Tensor errors = (batch.images - made.clamp(-1, 1)).square().flatten(1).mean(1);
  expect_close(result.values[1].value, 10 * (4 / errors).log10(), 1e-5, 1e-5);
  EXPECT_EQ(result.values[2].name, "lpips");
  expect_close(result.values[2].value, distances, 1e-5, 1e-6);
}

TEST(AutoencoderTask, TakesANetworkOfOnesOwnForLPIPS) {
  struct Pooled : LPIPSFeatures {
    Pooled() : LPIPSFeatures("pooled") {}
    std::vector<Tensor> features(const Tensor& images) override { return {at::avg_pool2d(images, 4)}; }
  };
  AutoencoderKL vae = tiny_kl();
  const LPIPS lpips(std::make_shared<Pooled>());
  const auto task = std::make_shared<AutoencoderTask>(
      vae, LPIPSWithDiscriminator({.disc_factor = 0, .perceptual_weight = 0.5}, lpips));
  EXPECT_EQ(parse_json(task->config_json(), "task")["loss"]["lpips"], "pooled");
  const TemporaryFolder folder;
  TrainingConfig config = autoencoder_config(folder.path());
  config.max_train_steps = 1;
  config.logging_steps = 1;
  double p_loss = 0;
  Trainer trainer(task, config);
  trainer.on_log([&](const TrainingProgress& progress) { p_loss = logged(progress, "p_loss"); });
  trainer.train(colour_images(3));
  EXPECT_GT(p_loss, 0);
  EXPECT_TRUE(std::isfinite(p_loss));
}

TEST(AutoencoderTask, ReportsTheQualityOfHeldOutReconstructions) {
  const LPIPS lpips = golden_lpips("alex", at::kFloat);
  for (const bool is_kl : {true, false}) {
    SCOPED_TRACE(is_kl ? "kl" : "vq");
    const auto task =
        is_kl ? std::make_shared<AutoencoderTask>(
                    tiny_kl(), LPIPSWithDiscriminator({.disc_factor = 0, .perceptual_weight = 0.5}, lpips))
              : std::make_shared<AutoencoderTask>(
                    tiny_vq(), VQLPIPSWithDiscriminator({.disc_factor = 0, .perceptual_weight = 0.5}, lpips));
    const TemporaryFolder folder;
    TrainingConfig config = autoencoder_config(folder.path());
    config.max_train_steps = 2;
    config.checkpointing_steps = 0;
    config.use_ema = false;
    config.validation_steps = 1;
    std::vector<ValidationResult> validations;
    Trainer trainer(task, config);
    trainer.on_validation([&](const ValidationResult& result) { validations.push_back(result); });
    const TensorDataset held_out = colour_images(5);
    trainer.train(colour_images(7), held_out);
    ASSERT_EQ(validations.size(), 2U);
    std::vector<std::string> names;
    for (const auto& entry : validations[1].values) names.push_back(entry.first);
    EXPECT_EQ(names, is_kl ? (std::vector<std::string>{"rec_loss", "psnr", "lpips", "kl_loss"})
                           : (std::vector<std::string>{"rec_loss", "psnr", "lpips", "codebook_loss",
                                                       "perplexity", "codebook_usage"}));
    // The model is as in the last validation. The batches there have 3 and 2 images.
    const at::NoGradGuard no_grad;
    const StepLoss whole = task->validate(held_out.samples());
    EXPECT_NEAR(validations[1].loss, whole.loss.mean().item<double>(), 1e-5);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(validations[1].values[i].second, whole.values[i].value.mean().item<double>(), 1e-4)
          << names[i];
    if (is_kl) continue;
    double perplexity = 0;
    for (const auto& [first, end] : {std::pair(0, 3), std::pair(3, 5)})
      perplexity += task->validate(held_out.samples().slice(first, end)).values[4].value.item<double>() *
                    (end - first) / 5.0;
    EXPECT_NEAR(validations[1].values[4].second, perplexity, 1e-5);
  }
}

TEST(AutoencoderTask, LogsEachTermAndItsGradientNorm) {
  for (const bool is_kl : {true, false}) {
    const TemporaryFolder folder;
    std::vector<TrainingProgress> rows;
    Trainer trainer(tiny_task(is_kl), autoencoder_config(folder.path()));
    trainer.on_log([&](const TrainingProgress& progress) { rows.push_back(progress); });
    trainer.train(colour_images(7));
    ASSERT_EQ(rows.size(), 4U);
    for (const char* name : {"nll_loss", "g_loss", "d_weight", "rec_loss", "p_loss", "rec_grad_norm",
                             "p_grad_norm", "nll_grad_norm", "g_grad_norm", "discriminator/loss",
                             "discriminator/grad_norm", is_kl ? "kl_loss" : "codebook_loss",
                             is_kl ? "kl_grad_norm" : "codebook_grad_norm", is_kl ? "logvar" : "perplexity"})
      EXPECT_TRUE(std::any_of(rows[3].values.begin(), rows[3].values.end(), [&](const auto& entry) {
        return entry.first == name;
      })) << name;
    EXPECT_EQ(logged(rows[0], "g_loss"), 0);  // the discriminator begins at step 2
    EXPECT_NE(logged(rows[3], "g_loss"), 0);
    EXPECT_GT(logged(rows[0], "nll_grad_norm"), 0);
    EXPECT_GT(logged(rows[0], "psnr"), 0);
    EXPECT_GT(logged(rows[3], "g_grad_norm"), 0);
    if (is_kl) {
      EXPECT_GT(logged(rows[3], "kl_grad_norm"), 0);
      EXPECT_NE(logged(rows[3], "logvar"), 0);
    } else {
      EXPECT_GE(logged(rows[3], "perplexity"), 1);
      EXPECT_LE(logged(rows[3], "perplexity"), 16);
      EXPECT_GT(logged(rows[3], "codebook_usage"), 0);
      EXPECT_LE(logged(rows[3], "codebook_usage"), 1);
      EXPECT_GT(logged(rows[3], "codebook_grad_norm"), 0);
    }
  }
}

// 6 images in batches of 6 or of 2: the posterior noise is drawn for the whole step.
TEST(AutoencoderTask, AccumulationEqualsTheLargeBatch) {
  const auto train = [](int64_t batch_size, int64_t accumulation) {
    const TemporaryFolder folder;
    TrainingConfig config = quiet_config(folder.path());
    config.max_train_steps = 3;
    config.train_batch_size = batch_size;
    config.gradient_accumulation_steps = accumulation;
    AutoencoderKL vae = tiny_kl();
    vae->to(at::kDouble);
    const auto task = std::make_shared<AutoencoderTask>(
        vae, LPIPSWithDiscriminator({.disc_factor = 0, .perceptual_weight = 0}));
    Trainer(task, config).train(colour_images(6));
    return flat_parameters(*vae);
  };
  expect_close(train(2, 3), train(6, 1), 1e-9, 1e-10);
}

TEST(AutoencoderTask, KeepsTheLogVarianceWhereItIsNotLearned) {
  const TemporaryFolder folder;
  LPIPSWithDiscriminator loss({.logvar_init = 0.5, .disc_factor = 0, .perceptual_weight = 0});
  const auto task =
      std::make_shared<AutoencoderTask>(tiny_kl(), loss, AutoencoderTaskOptions{.learn_logvar = false});
  EXPECT_EQ(task->trained().size(), 1U);
  Trainer(task, autoencoder_config(folder.path())).train(colour_images(7));
  EXPECT_EQ(loss->logvar.item<float>(), 0.5F);
  EXPECT_FALSE(loss->logvar.grad().defined());
}

TEST(AutoencoderTask, RefusesWhatItCannotServe) {
  const TemporaryFolder folder;
  const auto refuse = [&](auto change, std::string_view part) {
    TrainingConfig config = autoencoder_config(folder.path());
    change(config);
    expect_throws_with<ConfigError>([&] { Trainer(tiny_task(true), config); }, part);
  };
  refuse([](auto& config) { config.snr_gamma = 5.0; }, "snr_gamma is 5");
  refuse([](auto& config) { config.noise_offset = 0.1; }, "noise_offset is 0.1");
  refuse([](auto& config) { config.loss_type = "l1"; }, "loss_type is \"l1\"");
  refuse([](auto& config) { config.cpu_data_parallel = 2; },
         "cpu_data_parallel is 2, but AutoencoderTask needs whole batches");

  const LPIPSWithDiscriminatorConfig plain{.perceptual_weight = 0};
  const auto refuse_model = [&](const AutoencoderKLConfig& model, const LPIPSWithDiscriminator& loss,
                                std::string_view part) {
    expect_throws_with<ConfigError>([&] { AutoencoderTask(AutoencoderKL(model), loss); }, part);
  };
  AutoencoderKLConfig model = tiny_kl_config();
  model.out_channels = 1;
  refuse_model(model, LPIPSWithDiscriminator(plain), "in_channels 3 and out_channels 1");
  model.in_channels = 1;
  refuse_model(model, LPIPSWithDiscriminator(plain), "the discriminator has input_nc 3, expected 1");
  model.in_channels = model.out_channels = 2;
  refuse_model(model, LPIPSWithDiscriminator({.disc_factor = 0}, LPIPS({.net = "alex"})),
               "LPIPS takes images of 1 or 3 channels");
  refuse_model(tiny_kl_config(), LPIPSWithDiscriminator({.perceptual_weight = 0, .disc_conditional = true}),
               "disc_conditional is true");
  refuse_model(tiny_kl_config(), nullptr, "empty holder");
  expect_throws_with<ConfigError>(
      [] {
        AutoencoderTask(tiny_vq(), VQLPIPSWithDiscriminator({.perceptual_weight = 0}),
                        {.learn_logvar = false});
      },
      "learn_logvar is false");

  const auto refuse_images = [&](std::vector<int64_t> shape, std::string_view part) {
    AutoencoderTask task(tiny_kl(), LPIPSWithDiscriminator(plain));
    task.configure({});
    expect_throws_with<TensorError>([&] { task.check_batch({.images = at::zeros(shape)}); }, part);
  };
  refuse_images({1, 1, 32, 32}, "expected [B, 3, H, W]");
  refuse_images({1, 3, 33, 32}, "multiples of 2");
  refuse_images({1, 3, 32, 22}, "height and width of 24 or more");
}

}  // namespace
}  // namespace diffusers::test
