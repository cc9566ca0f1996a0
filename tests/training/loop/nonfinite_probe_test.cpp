#include "training/loop/nonfinite_probe.h"

#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/batch_split.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_equal;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

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
  const LogCapture log;
  Trainer trainer(std::make_shared<OverflowingNetImpl>(), DDPMScheduler(), config);
  int64_t steps = 0;
  trainer.on_step([&](int64_t step) { steps = step; });
  expect_throws_with<Error>([&] { trainer.train(TinyImages(20)); }, "first in the output of second (aten::");
  EXPECT_EQ(steps, 2);  // the third step ends the training, long before the next logging step
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

// The step is computed again to find the module. The state of the task is updated only once.
TEST(Trainer, LearnsOfABadStepOnce) {
  const LogCapture log;
  const test::TemporaryFolder folder;
  TinyImages images(20);
  images.images()[7].fill_(std::nan(""));
  TrainingConfig config = quiet_config(folder.path());
  const DiffusionTaskOptions adaptive{.timestep_sampling = TimestepSampling::kLossSecondMoment};
  Trainer trainer(seeded_net(), DDPMScheduler({.num_train_timesteps = 5}), config, adaptive);
  trainer.train(images);
  EXPECT_EQ(trainer.task().state().at("losses_seen").sum().item<int64_t>(), 20);
  config.overwrite_output_dir = true;
  TinyNet model = seeded_net();
  model->conv_in->bias.detach().fill_(std::numeric_limits<float>::max());
  config.max_nonfinite_steps = 100;
  Trainer overflowing(model, DDPMScheduler({.num_train_timesteps = 5}), config, adaptive);
  expect_throws_with<Error>([&] { overflowing.train(TinyImages(20)); }, "all 5 steps were skipped");
  EXPECT_EQ(overflowing.task().state().at("losses_seen").sum().item<int64_t>(), 20);
}

/// Computes NaN values with many small operations.
void compute_nan_values() {
  Tensor value = at::full({4}, std::nan(""));
  for (int i = 0; i < 20; ++i) value = (value + 1).relu().exp();
}

/// Threads that compute NaN values continuously, as another part of a program may do during a training.
class BusyThreads {
 public:
  explicit BusyThreads(int count) {
    for (int i = 0; i < count; ++i)
      threads_.emplace_back([this] {
        while (!is_ending_) compute_nan_values();
      });
  }
  BusyThreads(const BusyThreads&) = delete;
  BusyThreads& operator=(const BusyThreads&) = delete;
  ~BusyThreads() {
    is_ending_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> is_ending_{false};
  std::vector<std::thread> threads_;
};

NamedTensors named_parameters_of(const TinyNet& model) {
  NamedTensors parameters;
  for (const auto& parameter : model->named_parameters())
    parameters.emplace_back(parameter.key(), parameter.value());
  return parameters;
}

TEST(FindNonfiniteOutput, WatchesItsOwnThreadAlone) {
  const BusyThreads busy(3);
  TinyNet model = seeded_net();
  const NamedTensors parameters = named_parameters_of(model);
  const Tensor timesteps = at::zeros({2});
  for (int i = 0; i < 200; ++i) {
    const double value = i % 2 == 0 ? 0.5 : std::nan("");
    const auto found = find_nonfinite_output(parameters, [&] {
      model->forward(at::full({2, 1, 6, 6}, value), timesteps);
    });
    if (i % 2 == 0) {
      EXPECT_EQ(found, std::nullopt);
    } else {
      ASSERT_TRUE(found.has_value());
      EXPECT_TRUE(found->starts_with("what comes before the first module")) << *found;
    }
  }
}

TEST(FindNonfiniteOutput, RunsInSeveralThreadsAtOnceAndNested) {
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&right, i] {
      TinyNet model;
      const NamedTensors parameters = named_parameters_of(model);
      const auto forward = [&](double value) {
        model->forward(at::full({1, 1, 6, 6}, value), at::zeros({1}));
      };
      for (int n = 0; n < 50; ++n) {
        std::optional<std::string> inner;
        const auto outer = find_nonfinite_output(parameters, [&] {
          inner = find_nonfinite_output(parameters, [&] { forward(std::nan("")); });
          forward(i);
        });
        if (inner && !outer) ++right;
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 150);
  // No callbacks remain registered.
  EXPECT_FALSE(at::hasThreadLocalCallbacks());
  EXPECT_FALSE(at::hasGlobalCallbacks());
}

TEST(FindNonfiniteOutput, WatchesThePartsOfABatch) {
  const BusyThreads busy(1);
  TinyNet model = seeded_net();
  const auto trainable = make_trainable(model);
  Tensor sample = at::zeros({4, 1, 6, 6});
  for (int i = 0; i < 50; ++i) {
    sample.zero_();
    sample[i % 4].fill_(3e38);  // a convolution over it overflows
    model->conv_in->weight.detach().fill_(1);
    const auto found = find_nonfinite_output(named_parameters_of(model), [&] {
      const at::AutoGradMode with_grad(true);  // otherwise the batch is not split
      predict_in_parts(trainable, sample, at::zeros({4}), {}, 4);
    });
    ASSERT_TRUE(found.has_value());
    EXPECT_TRUE(found->starts_with("conv_in (")) << *found;
  }
}

/// A dataset whose batches need many operations in the loader's threads.
class BusyImages : public TinyImages {
 public:
  using TinyImages::TinyImages;
  Batch get_batch(std::span<const int64_t> indices, uint64_t seed) const override {
    for (int i = 0; i < 20; ++i) compute_nan_values();  // the threads are never idle
    return TinyImages::get_batch(indices, seed);
  }
};

// Each step is computed again under observation, while the loader's threads read ahead.
TEST(Trainer, FindsTheModuleWhileWorkersReadData) {
  const LogCapture log;
  for (const int64_t parts : {1, 2}) {
    for (int i = 0; i < 15; ++i) {
      const test::TemporaryFolder folder;
      TinyNet model = seeded_net();
      model->conv_in->bias.detach().fill_(std::numeric_limits<float>::max());
      TrainingConfig config = quiet_config(folder.path());
      config.train_batch_size = 2;
      config.dataloader_num_workers = 3;
      config.cpu_data_parallel = parts;
      config.max_nonfinite_steps = 10;
      config.tensorboard = false;
      config.report = false;
      expect_throws_with<Error>([&] { Trainer(model, DDPMScheduler(), config).train(BusyImages(40)); },
                                "first in the output of conv_out (aten::");
    }
  }
}

}  // namespace
}  // namespace diffusers
