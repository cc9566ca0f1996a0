// Trainings with several updates per step, frozen modules and named values, with a tiny GAN.

#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/loader.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/training/gradient_clipping.h>
#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/linear.h>
#include <unistd.h>

#include "core/json.h"
#include "support/golden.h"
#include "training/killed_training.h"
#include "training/quick_training.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::TemporaryFolder;
using test::TinyImages;

constexpr int64_t kPixels = 36;
constexpr int64_t kGanSteps = 8;

struct GeneratorNetImpl : torch::nn::Module {
  GeneratorNetImpl() : torch::nn::Module("GeneratorNet") {
    layer = register_module("layer", torch::nn::Linear(4, kPixels));
  }
  Tensor forward(const Tensor& z) { return layer(z).tanh(); }
  torch::nn::Linear layer{nullptr};
};
TORCH_MODULE(GeneratorNet);

struct CriticNetImpl : torch::nn::Module {
  CriticNetImpl() : torch::nn::Module("CriticNet") {
    first = register_module("first", torch::nn::Linear(kPixels, 5));
    last = register_module("last", torch::nn::Linear(5, 1));
  }
  Tensor forward(const Tensor& x) { return last(at::leaky_relu(first(x), 0.2)).squeeze(1); }
  torch::nn::Linear first{nullptr}, last{nullptr};
};
TORCH_MODULE(CriticNet);

/// A frozen feature extractor with a running mean, which train mode would change.
struct FeatureNetImpl : torch::nn::Module {
  FeatureNetImpl() : torch::nn::Module("FeatureNet") {
    norm = register_module("norm", torch::nn::BatchNorm1d(kPixels));
  }
  Tensor forward(const Tensor& x) { return norm(x); }
  torch::nn::BatchNorm1d norm{nullptr};
};
TORCH_MODULE(FeatureNet);

/// A task with a generator and a discriminator, each with its own optimizer. The discriminator starts at
/// step 2.
class TinyGan : public Task {
 public:
  TinyGan() {
    manual_seed(1);
    generator = GeneratorNet();
    critic = CriticNet();
    trained_ = {{"generator", make_saved_module(generator)},
                {"discriminator", make_saved_module(critic), /*is_averaged=*/false}};
  }

  const std::vector<NamedModule>& trained() const override { return trained_; }
  std::vector<NamedModule> frozen() const override { return {{"features", make_saved_module(features)}}; }
  std::vector<Update> updates(const TrainingConfig&) const override {
    if (!given_updates.empty()) return given_updates;
    return {{.name = "generator", .modules = {"generator"}},
            {.name = "discriminator",
             .modules = {"discriminator"},
             .optimizer = OptimizerConfig{.type = OptimizerType::kAdam, .lr = 3e-3, .weight_decay = 0},
             .lr_scheduler = "linear",
             .lr_warmup_steps = 1,
             .max_grad_norm = 0.5,
             .start_step = 2}};
  }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext& context) override { context_ = context; }
  StepLoss loss(const Batch& batch, std::size_t update) override {
    const Tensor real = features->forward(batch.images.flatten(1));
    const Tensor z = at::randn({batch.images.size(0), 4}, context_.generator, real.options());
    const Tensor fake = generator->forward(z);
    if (update == 0) {
      generator_saw_gradients = generator_saw_gradients || critic->last->weight.requires_grad();
      const Tensor g_loss = -critic->forward(fake);
      const Tensor distance = (fake.mean(0) - real.mean(0)).square().mean();
      return {g_loss + distance, {{"distance", distance}, {"g_loss", g_loss}}};
    }
    const Tensor d_loss = 0.5 * (at::relu(1 - critic->forward(real)).mean() +
                                 at::relu(1 + critic->forward(fake.detach())).mean());
    return {d_loss, {{"d_loss", d_loss}}};
  }
  void save_extras(const std::filesystem::path&) const override {}

  GeneratorNet generator{nullptr};
  CriticNet critic{nullptr};
  FeatureNet features;
  std::vector<Update> given_updates;
  bool generator_saw_gradients = false;

 private:
  std::vector<NamedModule> trained_;
  StepContext context_;
};

TrainingConfig gan_config(const std::string& output_dir) {
  TrainingConfig config = quiet_config(output_dir);
  config.max_train_steps = kGanSteps;
  config.train_batch_size = 6;
  config.logging_steps = 2;
  config.use_ema = true;
  config.checkpointing_steps = kGanSteps;
  return config;
}

const TinyImages& gan_images() {
  static const TinyImages kImages(12);
  return kImages;
}

/// @param stop the step after which the training stops; -1: never
TrainingResult train_gan(const TrainingConfig& config, int64_t stop = -1, useconds_t pause = 0) {
  Trainer trainer(std::make_shared<TinyGan>(), config);
  trainer.on_step([&](int64_t step) {
    if (pause > 0) ::usleep(pause);
    if (step == stop) trainer.request_stop();
  });
  return trainer.train(gan_images());
}

void expect_same_gan(const std::string& actual, const std::string& expected) {
  for (const char* name :
       {"generator/diffusion_pytorch_model.safetensors", "generator_ema/diffusion_pytorch_model.safetensors",
        "discriminator/diffusion_pytorch_model.safetensors", "optimizer.safetensors",
        "optimizer_discriminator.safetensors", "trainer_state.safetensors"})
    EXPECT_EQ(read_text_file(join_path(actual, name)), read_text_file(join_path(expected, name))) << name;
}

TEST(Updates, EqualALoopOfOnesOwn) {
  const TemporaryFolder folder;
  TrainingConfig config = gan_config(folder.path());
  config.use_ema = false;
  const auto task = std::make_shared<TinyGan>();
  Trainer(task, config).train(gan_images());
  EXPECT_FALSE(task->generator_saw_gradients);

  TinyGan own;
  own.features->eval();
  const std::vector<Tensor> g_parameters = own.generator->parameters();
  const std::vector<Tensor> d_parameters = own.critic->parameters();
  Optimizer g_optimizer(g_parameters, {.lr = 1e-2, .beta1 = 0.95, .weight_decay = 1e-6});
  Optimizer d_optimizer(d_parameters, {.type = OptimizerType::kAdam, .lr = 3e-3, .weight_decay = 0});
  const LRSchedule d_lr =
      get_scheduler("linear", {.num_warmup_steps = 1, .num_training_steps = kGanSteps - 2});
  DataLoader loader(gan_images(), {.batch_size = 6, .shuffle = true, .seed = 3});
  const Generator generator = make_generator(3);
  for (int64_t step = 0; step < kGanSteps; ++step) {
    std::optional<Batch> batch = loader.next();
    if (!batch) batch = loader.next();
    own.begin_step({.step = step, .samples = 6, .generator = generator});
    for (const Tensor& parameter : d_parameters) parameter.requires_grad_(false);
    (own.loss(*batch, 0).loss.sum() / 6.0).backward();
    for (const Tensor& parameter : d_parameters) parameter.requires_grad_(true);
    clip_grad_norm_(g_parameters, 1.0);
    g_optimizer.step();
    g_optimizer.zero_grad();
    if (step < 2) continue;
    own.loss(*batch, 1).loss.backward();
    clip_grad_norm_(d_parameters, 0.5);
    d_optimizer.step(d_lr(step - 2));
    d_optimizer.zero_grad();
  }
  for (const bool is_critic : {false, true}) {
    const auto actual = is_critic ? task->critic->parameters() : task->generator->parameters();
    const auto expected = is_critic ? d_parameters : g_parameters;
    for (std::size_t i = 0; i < expected.size(); ++i) expect_equal(actual[i], expected[i]);
  }
}

TEST(Updates, ResumeBitForBit) {
  const TemporaryFolder whole;
  train_gan(gan_config(whole.path()));
  for (const int64_t stop : {1, 2, 3, 5, 7}) {
    const TemporaryFolder folder;
    TrainingConfig config = gan_config(folder.path());
    EXPECT_FALSE(train_gan(config, stop).is_complete);
    config.resume_from_checkpoint = "latest";
    EXPECT_TRUE(train_gan(config).is_complete);
    expect_same_gan(folder / "checkpoint-8", whole / "checkpoint-8");
    EXPECT_EQ(read_text_file(folder / "generator/diffusion_pytorch_model.safetensors"),
              read_text_file(whole / "generator/diffusion_pytorch_model.safetensors"));
  }
}

TEST(GanProcess, DISABLED_TrainsOrResumes) {
  const char* folder = std::getenv(test::kProcessFolder);
  ASSERT_NE(folder, nullptr);
  TrainingConfig config = gan_config(folder);
  config.checkpointing_steps = 1;
  if (!list_checkpoints(folder).empty()) config.resume_from_checkpoint = "latest";
  train_gan(config, -1, /*pause=*/15000);
}

TEST(Updates, SurviveBeingKilled) {
  const TemporaryFolder whole;
  train_gan(gan_config(whole.path()));
  std::srand(1);
  constexpr int kWanted = 3;
  int kills = 0;
  for (int training = 0; kills < kWanted && training < 6 && !HasFailure(); ++training) {
    const TemporaryFolder folder;
    kills += test::train_with_kills(folder.path(), "GanProcess.*", kGanSteps);
    expect_same_gan(folder / "checkpoint-8", whole / "checkpoint-8");
  }
  EXPECT_GE(kills, kWanted) << "the other processes had ended before they were killed";
}

TEST(Updates, LogTheirLossesAndNamedValues) {
  const TemporaryFolder folder;
  TrainingConfig config = gan_config(folder.path());
  const auto task = std::make_shared<TinyGan>();
  std::vector<TrainingProgress> logged;
  Trainer trainer(task, config);
  trainer.on_log([&](const TrainingProgress& progress) { logged.push_back(progress); });
  trainer.train(gan_images());
  ASSERT_EQ(logged.size(), 4U);
  EXPECT_EQ(logged[0].values.size(), 2U);  // the discriminator starts at step 2
  ASSERT_EQ(logged[1].values.size(), 6U);
  const std::vector<std::string> names = {"distance",
                                          "g_loss",
                                          "discriminator/loss",
                                          "discriminator/lr",
                                          "discriminator/grad_norm",
                                          "discriminator/d_loss"};
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(logged[1].values[i].first, names[i]);
  EXPECT_NEAR(logged[1].values[0].second + logged[1].values[1].second, logged[1].loss, 1e-6);
  EXPECT_NEAR(logged[1].values[2].second, logged[1].values[5].second, 1e-6);
  EXPECT_GT(logged[1].values[4].second, 0);

  const std::string csv = read_text_file(folder / "metrics.csv");
  EXPECT_NE(csv.find("memory_bytes,distance,g_loss,discriminator/loss,discriminator/lr,"
                     "discriminator/grad_norm,discriminator/d_loss\n"),
            std::string::npos)
      << csv;
  EXPECT_NE(read_text_file(folder / "metrics.jsonl").find("\"discriminator/d_loss\":"), std::string::npos);
  const std::string report = read_text_file(folder / "report.html");
  EXPECT_NE(report.find("chart-value-5"), std::string::npos);
  EXPECT_NE(report.find("discriminator/d_loss"), std::string::npos);
  // A resumed training keeps the columns of metrics.csv.
  const MetricsLog resumed(folder.path(), 4);
  ASSERT_EQ(resumed.rows().size(), 2U);
  EXPECT_EQ(resumed.rows()[1].values.size(), 6U);
  EXPECT_NE(read_text_file(folder / "metrics.csv").find("discriminator/d_loss"), std::string::npos);
}

TEST(Updates, FrozenModulesAreNeitherTrainedNorSaved) {
  const TemporaryFolder folder;
  const auto task = std::make_shared<TinyGan>();
  task->features->train();
  const Tensor mean = task->features->norm->running_mean.clone();
  Trainer trainer(task, gan_config(folder.path()));
  trainer.train(gan_images());
  EXPECT_FALSE(task->features->is_training());
  for (const Tensor& parameter : task->features->parameters()) EXPECT_FALSE(parameter.requires_grad());
  expect_equal(task->features->norm->running_mean, mean);
  EXPECT_EQ(trainer.ema()->shadow_params().size(), task->generator->parameters().size());
  for (const char* name : {"features", "checkpoint-8/features", "checkpoint-8/discriminator_ema"})
    EXPECT_FALSE(folder_exists(folder / name)) << name;
  EXPECT_TRUE(folder_exists(folder / "checkpoint-8/discriminator"));
  EXPECT_NE(trainer.optimizer(1), nullptr);
  EXPECT_EQ(trainer.optimizer(2), nullptr);
}

TEST(Updates, AreChecked) {
  const TemporaryFolder folder;
  const auto expect_refused = [&](std::vector<Update> updates, std::string_view part) {
    const auto task = std::make_shared<TinyGan>();
    task->given_updates = std::move(updates);
    expect_throws_with<ConfigError>([&] { Trainer(task, gan_config(folder.path())); }, part);
  };
  const Update generator{.name = "generator", .modules = {"generator"}};
  const Update critic{.name = "discriminator", .modules = {"discriminator"}};
  expect_refused({generator}, "the module \"discriminator\" belongs to no update");
  expect_refused({generator, critic, {.name = "more", .modules = {"generator"}}},
                 "belongs to the updates \"generator\" and \"more\"");
  expect_refused({generator, {.name = "generator", .modules = {"discriminator"}}}, "two updates of the name");
  expect_refused({generator, {.modules = {"discriminator"}}}, "without a name");
  expect_refused({generator, {.name = "other", .modules = {"critic"}}}, "names the module \"critic\"");
  expect_refused({generator, {.name = "a/b", .modules = {"discriminator"}}}, "the name of an update");
  Update late = critic;
  late.start_step = -1;
  expect_refused({generator, late}, "start_step of the update \"discriminator\" is -1");
  Update wrong = critic;
  wrong.optimizer = OptimizerConfig{.lr = -1};
  expect_refused({generator, wrong}, "lr is -1");
}

TEST(Updates, OfACheckpointAreCompared) {
  const TemporaryFolder folder;
  TrainingConfig config = gan_config(folder.path());
  train_gan(config, 3);
  config.resume_from_checkpoint = "latest";
  const auto task = std::make_shared<TinyGan>();
  task->given_updates = task->updates(config);
  task->given_updates[1].optimizer->lr = 1e-3;
  expect_throws_with<ConfigError>([&] { Trainer(task, config).train(gan_images()); }, "update 1 of the task");
}

/// A task that trains a text encoder, whose files have other names than those of a UNet.
class TextEncoderTask : public Task {
 public:
  TextEncoderTask() {
    manual_seed(2);
    text = CLIPTextModel({.vocab_size = 20,
                          .hidden_size = 8,
                          .intermediate_size = 12,
                          .num_hidden_layers = 1,
                          .num_attention_heads = 2,
                          .max_position_embeddings = 6});
    trained_ = {{"text_encoder", make_saved_module(text)}};
  }
  const std::vector<NamedModule>& trained() const override { return trained_; }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext& context) override { context_ = context; }
  StepLoss loss(const Batch& batch, std::size_t) override {
    const Tensor ids = at::randint(0, 20, {batch.images.size(0), 6}, context_.generator,
                                   batch.images.options().dtype(at::kLong));
    return text->forward(ids).last_hidden_state.square().flatten(1).mean(1);
  }
  void save_extras(const std::filesystem::path&) const override {}

  CLIPTextModel text{nullptr};

 private:
  std::vector<NamedModule> trained_;
  StepContext context_;
};

TEST(Resume, GoesOnWithATextEncoder) {
  const TemporaryFolder whole;
  TrainingConfig config = gan_config(whole.path());
  Trainer(std::make_shared<TextEncoderTask>(), config).train(gan_images());
  const TemporaryFolder folder;
  config.output_dir = folder.path();
  Trainer first(std::make_shared<TextEncoderTask>(), config);
  first.on_step([&](int64_t step) {
    if (step == 3) first.request_stop();
  });
  first.train(gan_images());
  EXPECT_TRUE(file_exists(folder / "checkpoint-3/text_encoder/model.safetensors"));
  config.resume_from_checkpoint = "latest";
  EXPECT_TRUE(Trainer(std::make_shared<TextEncoderTask>(), config).train(gan_images()).is_complete);
  for (const char* name : {"text_encoder/model.safetensors", "text_encoder_ema/model.safetensors",
                           "optimizer.safetensors", "trainer_state.safetensors"})
    EXPECT_EQ(read_text_file(join_path(folder / "checkpoint-8", name)),
              read_text_file(join_path(whole / "checkpoint-8", name)))
        << name;
  CLIPTextModel::from_pretrained(folder / "text_encoder");
}

}  // namespace
}  // namespace diffusers
