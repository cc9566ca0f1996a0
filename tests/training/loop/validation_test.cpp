#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

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
  EXPECT_EQ(still[0].loss, still[2].loss);  // dropout or newly drawn noise would change the loss
  EXPECT_EQ(still[0].bin_losses, still[2].bin_losses);
  ASSERT_EQ(still[0].bin_losses.size(), 5U);
  // 30 examples in 5 bins give 6 examples per bin.
  double mean = 0;
  for (const double bin : still[0].bin_losses) mean += bin / 5;
  EXPECT_NEAR(mean, still[0].loss, 1e-9);

  const std::vector<ValidationResult> learning = train(1e-2, 40);
  EXPECT_LT(learning[2].loss, learning[0].loss);
  // With more bins than examples, some bins are empty.
  EXPECT_EQ(std::count_if(learning[0].bin_losses.begin(), learning[0].bin_losses.end(),
                          [](double bin) { return std::isnan(bin); }),
            10);
}

/// Gives named values of held-out images.
class ValuedTask : public DiffusionTask {
 public:
  using Values = std::function<std::vector<NamedValue>(const Batch&)>;
  explicit ValuedTask(Values values)
      : DiffusionTask(TrainableDenoiser(seeded_net()), DDPMScheduler()), values_(std::move(values)) {}
  StepLoss validate(const Batch& batch, const Tensor& positions, const Generator& generator) override {
    return {validation_loss(batch, positions, generator), values_(batch)};
  }

 private:
  Values values_;
};

TEST(Trainer, AveragesTheNamedValuesOfHeldOutData) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.validation_steps = 2;
  config.logging_steps = 4;
  config.validation_samples = 7;
  const auto task = std::make_shared<ValuedTask>([](const Batch& batch) -> std::vector<NamedValue> {
    return {{"brightness", batch.images.flatten(1).mean(1)},
            {"batch_size", at::full({}, static_cast<double>(batch.size()))}};
  });
  Trainer trainer(task, config);
  std::vector<ValidationResult> results;
  trainer.on_validation([&](const ValidationResult& result) { results.push_back(result); });
  TinyImages held_out(9);
  trainer.train(TinyImages(20), held_out);
  ASSERT_EQ(results.size(), 3U);
  for (const ValidationResult& result : results) {
    ASSERT_EQ(result.values.size(), 2U);
    EXPECT_EQ(result.values[0].first, "brightness");
    EXPECT_NEAR(result.values[0].second, held_out.images().slice(0, 0, 7).mean().item<double>(), 1e-6);
    // Batches of 4 and 3 samples.
    EXPECT_DOUBLE_EQ(result.values[1].second, (4 * 4 + 3 * 3) / 7.0);
  }
  const std::string csv = read_text_file(folder / "metrics.csv");
  EXPECT_NE(csv.find(",validation/brightness,validation/batch_size\n"), std::string::npos) << csv;
  EXPECT_NE(csv.find("\n2,,,,,,,,,,"), std::string::npos) << "the row of the validation at step 2: " << csv;
  const std::string jsonl = read_text_file(folder / "metrics.jsonl");
  EXPECT_NE(jsonl.find("\"validation/batch_size\":3.57142857}"), std::string::npos) << jsonl;
  const std::string events = read_text_file(folder / "logs" + "/" + list_folder(folder / "logs")[0]);
  EXPECT_NE(events.find("validation/brightness"), std::string::npos);
  EXPECT_NE(read_text_file(folder / "report.html").find("Validation: brightness"), std::string::npos);
}

TEST(Trainer, RefusesNamedValuesThatDifferBetweenHeldOutBatches) {
  const auto refuse = [](const ValuedTask::Values& values, const char* part) {
    const test::TemporaryFolder folder;
    expect_throws_with<TensorError>(
        [&] {
          Trainer(std::make_shared<ValuedTask>(values), quiet_config(folder.path()))
              .train(TinyImages(4), TinyImages(7));
        },
        part);
  };
  using Named = std::vector<NamedValue>;
  const Tensor one = at::ones({});
  refuse(
      [&](const Batch&) {
        return Named{{"a", at::ones({5})}};
      },
      "the value \"a\" of the task's validation is float32 [5] on cpu, expected 0-dim or one value for each "
      "of 4 samples");
  refuse(
      [&](const Batch& batch) {
        return batch.size() == 4 ? Named{{"a", one}} : Named{};
      },
      "the task's validation has 0 named values, expected 1");
  refuse(
      [&](const Batch& batch) {
        return Named{{batch.size() == 4 ? "a" : "b", one}};
      },
      "the task's validation has the value \"b\", expected \"a\"");
}

/// A task that trains, and has no validation loss.
class UnvalidatedTask : public Task {
 public:
  const std::vector<NamedModule>& trained() const override { return trained_; }
  void configure(const TrainingConfig&) override {}
  void begin_step(const StepContext&) override {}
  StepLoss loss(const Batch& batch, std::size_t) override {
    return net_->forward(batch.images, at::zeros({batch.size()})).square().flatten(1).mean(1);
  }
  void save_extras(const std::filesystem::path&) const override {}

 private:
  TinyNet net_ = seeded_net();
  std::vector<NamedModule> trained_{{"net", make_saved_module(net_)}};
};

TEST(Trainer, RefusesHeldOutDataBeforeTheFirstStepIfTheTaskHasNoValidationLoss) {
  const test::TemporaryFolder folder;
  const std::string output_dir = folder / "run";
  const auto task = std::make_shared<UnvalidatedTask>();
  EXPECT_FALSE(task->has_validation());
  Trainer trainer(task, quiet_config(output_dir));
  int64_t steps = 0;
  trainer.on_step([&](int64_t) { ++steps; });
  expect_throws_with<ConfigError>([&] { trainer.train(TinyImages(8), TinyImages(4)); },
                                  "UnvalidatedTask has no validation loss");
  EXPECT_EQ(steps, 0);
  EXPECT_FALSE(folder_exists(output_dir));
  trainer.train(TinyImages(8));
  EXPECT_EQ(steps, 2);
  expect_throws_with<ConfigError>([&] { task->validate({}, {}, make_generator(0)); }, "no validation loss");
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

TEST(Trainer, ValidatesAtTheEndWithoutAnInterval) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.validation_samples = 6;  // these two have an effect without an interval
  config.validation_bins = 3;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<int64_t> validations;
  std::vector<int64_t> previews;
  trainer.on_validation([&](const ValidationResult& result) {
    validations.push_back(result.step);
    EXPECT_EQ(result.bin_losses.size(), 3U);
  });
  trainer.on_preview([&](const PreviewContext& at) { previews.push_back(at.step); });
  trainer.train(TinyImages(20), TinyImages(7));
  EXPECT_EQ(validations, std::vector<int64_t>{5});
  EXPECT_EQ(previews, std::vector<int64_t>{5});
}

TEST(Trainer, RefusesWhatNeedsHeldOutDataIfThereIsNone) {
  const test::TemporaryFolder folder;
  const std::string output_dir = folder / "run";
  const auto train = [&](void (*change)(TrainingConfig&), void (*prepare)(Trainer&)) {
    return [=] {
      TrainingConfig config = quiet_config(output_dir);
      change(config);
      Trainer trainer(seeded_net(), DDPMScheduler(), config);
      prepare(trainer);
      trainer.train(TinyImages(8));
    };
  };
  const auto nothing = [](TrainingConfig&) {};
  const auto no_callback = [](Trainer&) {};
  const auto preview = [](Trainer& trainer) { trainer.on_preview([](const PreviewContext&) {}); };
  expect_throws_with<ConfigError>(train([](TrainingConfig& c) { c.validation_steps = 2; }, no_callback),
                                  "validation_steps is 2, but there is neither held-out data nor a preview");
  expect_throws_with<ConfigError>(
      train(nothing, [](Trainer& trainer) { trainer.on_validation([](const ValidationResult&) {}); }),
      "on_validation has a callback, but there is no held-out data");
  expect_throws_with<ConfigError>(train([](TrainingConfig& c) { c.validation_samples = 3; }, preview),
                                  "validation_samples is 3, but has an effect only with held-out data");
  expect_throws_with<ConfigError>(train([](TrainingConfig& c) { c.validation_bins = 2; }, preview),
                                  "leave it at its default, 10");
  EXPECT_FALSE(folder_exists(output_dir));
  EXPECT_NO_THROW(train([](TrainingConfig& c) { c.validation_steps = 2; }, preview)());
}

TEST(Trainer, GivesEachSubmoduleItsModeBack) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net(0.3);
  model->drop->eval();  // such as a frozen layer
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = 5;
  config.validation_steps = 1;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<std::vector<bool>> modes;
  const auto note_modes = [&] {
    modes.push_back({model->is_training(), model->conv_in->is_training(), model->time->is_training(),
                     model->drop->is_training()});
  };
  trainer.on_step([&](int64_t step) {
    note_modes();
    if (step == 3) model->time->eval();
    if (step == 4) model->drop->train();
  });
  trainer.on_preview([&](const PreviewContext&) {
    note_modes();
    model->drop->train();  // changes by a callback end with the callback
  });
  trainer.train(TinyImages(20), TinyImages(7));
  const std::vector<bool> previewed{false, false, false, false};
  const std::vector<std::vector<bool>> expected{
      {true, true, true, false}, previewed, {true, true, true, false},  previewed,
      {true, true, true, false}, previewed, {true, true, false, false}, previewed,
      {true, true, false, true}, previewed};
  EXPECT_EQ(modes, expected);
  EXPECT_FALSE(model->is_training());
}

TEST(Trainer, PutsAModelInEvalModeIntoTrainMode) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net(0.3);
  model->eval();
  Trainer trainer(model, DDPMScheduler(), quiet_config(folder.path()));
  bool is_training = false;
  trainer.on_step([&](int64_t) { is_training = model->is_training() && model->drop->is_training(); });
  trainer.train(TinyImages(4));
  EXPECT_TRUE(is_training);
}

TEST(Trainer, RestoresTheModesIfAPreviewThrows) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net();
  model->time->eval();
  TrainingConfig config = quiet_config(folder.path());
  config.validation_steps = 1;
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.on_preview([](const PreviewContext&) { throw FileError("the disk is full"); });
  EXPECT_THROW(trainer.train(TinyImages(8)), FileError);
  EXPECT_TRUE(model->is_training());
  EXPECT_FALSE(model->time->is_training());
}

}  // namespace
}  // namespace diffusers
