// The number of parts that the Trainer cuts each batch into on the CPU.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "support/log_capture.h"
#include "training/quick_training.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::TemporaryFolder;
using test::TinyImages;

/// Two threads and messages of all levels, until the scope ends.
class TwoThreads {
 public:
  TwoThreads() {
    at::set_num_threads(2);
    set_verbosity(LogLevel::kInfo);
  }
  TwoThreads(const TwoThreads&) = delete;
  TwoThreads& operator=(const TwoThreads&) = delete;
  ~TwoThreads() {
    set_verbosity(verbosity_);
    at::set_num_threads(threads_);
  }
  LogCapture log;

 private:
  int threads_ = at::get_num_threads();
  LogLevel verbosity_ = get_verbosity();
};

/// A model that is large enough to be computed in parts.
UNet2DModel divisible_unet(double dropout = 0.0) {
  manual_seed(2);
  return UNet2DModel({.sample_size = 16,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                      .block_out_channels = {16, 32, 64},
                      .layers_per_block = 1,
                      .dropout = dropout,
                      .norm_num_groups = 8});
}

TrainingConfig parts_config(const std::string& folder, int64_t parts = 0) {
  TrainingConfig config = test::quiet_config(folder);
  config.seed = 3;
  config.train_batch_size = 4;
  config.max_train_steps = 4;
  config.checkpointing_steps = 2;
  config.cpu_data_parallel = parts;
  // Adam divides gradients by their magnitude, so a rounding error of one near zero may change a weight by a
  // full step.
  config.optimizer = OptimizerType::kSGD;
  config.sgd_momentum = 0.9;
  return config;
}

std::vector<Tensor> train_parts(const TrainingConfig& config, double dropout = 0.0) {
  UNet2DModel unet = divisible_unet(dropout);
  Trainer(unet, DDPMScheduler(), config).train(TinyImages(16, /*has_labels=*/false, 16));
  std::vector<Tensor> weights;
  for (const Tensor& parameter : unet->parameters()) weights.push_back(parameter.detach().clone());
  return weights;
}

void expect_same_weights(const std::vector<Tensor>& actual, const std::vector<Tensor>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) test::expect_equal(actual[i], expected[i]);
}

Json saved_parts(const std::string& folder, int64_t step) {
  const std::string path = join_path(folder, "checkpoint-" + std::to_string(step) + "/trainer_state.json");
  return parse_json(read_text_file(path), path).value("cpu_data_parallel", Json());
}

std::ptrdiff_t messages_with(const LogCapture& log, const char* part) {
  return std::count_if(log.messages().begin(), log.messages().end(),
                       [&](const std::string& text) { return text.find(part) != std::string::npos; });
}

TEST(BatchParts, TheTrainerChoosesTheNumberAndSavesIt) {
  const TwoThreads threads;
  const TemporaryFolder chosen, given, whole;
  const std::vector<Tensor> automatic = train_parts(parts_config(chosen.path()));
  EXPECT_EQ(messages_with(threads.log,
                          "cpu_data_parallel is 0: each batch is computed in 2 parts, one thread each"),
            1);
  expect_same_weights(automatic, train_parts(parts_config(given.path(), 2)));
  EXPECT_EQ(messages_with(threads.log, "cpu_data_parallel is 0"), 1);
  EXPECT_EQ(saved_parts(chosen.path(), 2), 2);
  EXPECT_EQ(saved_parts(given.path(), 4), 2);

  // One part rounds otherwise.
  const std::vector<Tensor> unsplit = train_parts(parts_config(whole.path(), 1));
  EXPECT_EQ(saved_parts(whole.path(), 2), 1);
  for (std::size_t i = 0; i < unsplit.size(); ++i) test::expect_close(automatic[i], unsplit[i], 1e-5, 1e-6);
}

TEST(BatchParts, OneThreadComputesWholeBatches) {
  const TwoThreads threads;
  at::set_num_threads(1);
  const TemporaryFolder chosen, given;
  expect_same_weights(train_parts(parts_config(chosen.path())), train_parts(parts_config(given.path(), 1)));
  EXPECT_TRUE(threads.log.contains("each batch is computed in 1 part"));
  EXPECT_EQ(saved_parts(chosen.path(), 4), 1);
}

TEST(BatchParts, AModelWithDropoutIsComputedInWholeBatches) {
  const TwoThreads threads;
  const TemporaryFolder chosen, given;
  expect_same_weights(train_parts(parts_config(chosen.path()), 0.1),
                      train_parts(parts_config(given.path(), 1), 0.1));
}

TEST(BatchParts, AResumedTrainingKeepsTheNumberOfItsCheckpoint) {
  const TwoThreads threads;
  const TemporaryFolder whole, parts;
  const std::vector<Tensor> expected = train_parts(parts_config(whole.path()));
  TrainingConfig config = parts_config(parts.path());
  train_parts(config);
  remove_folder(parts / "checkpoint-4");
  config.resume_from_checkpoint = "latest";
  at::set_num_threads(1);  // where the rule chooses 1
  expect_same_weights(train_parts(config), expected);
  EXPECT_TRUE(threads.log.contains(
      "computed in 2 parts, one thread each, as before the checkpoint; a new training on this machine would "
      "choose 1 for its 1 threads"));
  EXPECT_EQ(saved_parts(parts.path(), 4), 2);
}

TEST(BatchParts, ANumberThatIsGivenReplacesThatOfTheCheckpoint) {
  const TwoThreads threads;
  const TemporaryFolder folder;
  TrainingConfig config = parts_config(folder.path());
  train_parts(config);
  remove_folder(folder / "checkpoint-4");
  config.resume_from_checkpoint = "latest";
  config.cpu_data_parallel = 1;
  train_parts(config);
  EXPECT_EQ(saved_parts(folder.path(), 2), 2);
  EXPECT_EQ(saved_parts(folder.path(), 4), 1);
}

/// A task that computes whole batches, as a task of the user does unless it tells otherwise.
class WholeBatchTask : public Task {
 public:
  const std::vector<NamedModule>& trained() const override { return trained_; }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext& context) override { parts = context.cpu_data_parallel; }
  StepLoss loss(const Batch& batch, std::size_t) override {
    return net_->forward(batch.images, at::zeros({batch.images.size(0)})).square().mean({1, 2, 3});
  }
  void save_extras(const std::filesystem::path&) const override {}
  int64_t parts = 0;

 private:
  test::TinyNet net_;
  std::vector<NamedModule> trained_{{"net", make_saved_module(net_)}};
};

TEST(BatchParts, ATaskThatDoesNotDivideBatchesRefusesANumber) {
  const TwoThreads threads;
  const TemporaryFolder folder;
  const auto task = std::make_shared<WholeBatchTask>();
  expect_throws_with<ConfigError>(
      [&] { Trainer(task, parts_config(folder.path(), 2)).train(TinyImages(16)); },
      "cpu_data_parallel is 2, but the task does not divide batches; expected 0 or 1");
  Trainer(task, parts_config(folder.path())).train(TinyImages(16));
  EXPECT_EQ(task->parts, 1);
}

}  // namespace
}  // namespace diffusers
