#include "training/loop/stop_signals.h"

#include <atomic>
#include <csignal>
#include <memory>
#include <optional>
#include <thread>
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

using test::quiet_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;

using SignalHandler = void (*)(int);

int g_signals_of_the_program = 0;
extern "C" void count_signal(int) { ++g_signals_of_the_program; }

SignalHandler installed_handler(int number) {
  struct sigaction action {};
  ::sigaction(number, nullptr, &action);
  return action.sa_handler;
}

/// Installs a signal handler of the program for SIGUSR1 until the end of the scope.
class OwnHandler {
 public:
  OwnHandler() {
    g_signals_of_the_program = 0;
    struct sigaction action {};
    action.sa_handler = count_signal;
    ::sigaction(SIGUSR1, &action, &before_);
  }
  OwnHandler(const OwnHandler&) = delete;
  OwnHandler& operator=(const OwnHandler&) = delete;
  ~OwnHandler() { ::sigaction(SIGUSR1, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

TrainingConfig stoppable_config(const TemporaryFolder& folder) {
  TrainingConfig config = quiet_config(folder.path());
  config.handle_signals = true;
  config.max_train_steps = 3;
  config.tensorboard = false;
  config.report = false;
  return config;
}

TEST(StopSignals, AreSeenByAllThatLive) {
  const OwnHandler own;
  auto first = std::make_unique<StopSignals>(true);
  {
    StopSignals second(true);
    const StopSignals disabled(false);
    std::raise(SIGUSR1);
    EXPECT_EQ(first->received(), SIGUSR1);
    EXPECT_EQ(second.received(), SIGUSR1);
    EXPECT_EQ(disabled.received(), std::nullopt);
    std::raise(SIGTERM);
    EXPECT_EQ(second.end(), SIGUSR1);  // the first signal
    EXPECT_EQ(second.received(), SIGUSR1);
  }
  StopSignals late(true);
  EXPECT_EQ(late.received(), std::nullopt);  // signals before its construction do not count
  first.reset();
  // The handlers stay installed after the object that installed them is destroyed.
  std::raise(SIGUSR1);
  EXPECT_EQ(late.received(), SIGUSR1);
  EXPECT_EQ(g_signals_of_the_program, 0);
  late.end();
  EXPECT_EQ(installed_handler(SIGUSR1), count_signal);
  EXPECT_EQ(installed_handler(SIGTERM), SIG_DFL);
  std::raise(SIGUSR1);
  EXPECT_EQ(g_signals_of_the_program, 1);
}

TEST(StopSignals, LeaveAHandlerAloneThatWasInstalledMeanwhile) {
  StopSignals signals(true);
  const OwnHandler own;
  signals.end();
  EXPECT_EQ(installed_handler(SIGUSR1), count_signal);
}

TEST(StopSignals, KeepTheHandlersOfTheProgramFromManyThreads) {
  const OwnHandler own;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([] {
      for (int n = 0; n < 200; ++n) {
        StopSignals signals(true);
        signals.received();
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(installed_handler(SIGUSR1), count_signal);
  EXPECT_EQ(installed_handler(SIGINT), SIG_DFL);
}

TEST(Signals, OfTheFinalValidationAreReported) {
  const TemporaryFolder folder;
  TrainingConfig config = stoppable_config(folder);
  config.validation_steps = 2;
  Trainer trainer(seeded_net(), DDPMScheduler(), config);
  std::vector<int64_t> previews;
  trainer.on_preview([&](const PreviewContext& context) { previews.push_back(context.step); });
  trainer.on_validation([](const ValidationResult& result) {
    if (result.step == 3) std::raise(SIGTERM);
  });
  const TrainingResult result = trainer.train(TinyImages(12), TinyImages(4));
  EXPECT_EQ(result.signal, SIGTERM);
  EXPECT_TRUE(result.is_complete);
  EXPECT_TRUE(file_exists(folder / "unet/config.json"));
  EXPECT_EQ(previews, std::vector<int64_t>{2});  // no preview after the signal
}

/// A task that raises a signal after all files except its own are published.
class SignallingTask : public DiffusionTask {
 public:
  using DiffusionTask::DiffusionTask;
  void save_extras(const std::filesystem::path& output_dir) const override {
    std::raise(SIGINT);
    DiffusionTask::save_extras(output_dir);
  }
};

TEST(Signals, OfThePublishingAreReported) {
  const TemporaryFolder folder;
  Trainer trainer(std::make_shared<SignallingTask>(make_trainable(seeded_net()), DDPMScheduler()),
                  stoppable_config(folder));
  const TrainingResult result = trainer.train(TinyImages(12));
  EXPECT_EQ(result.signal, SIGINT);
  EXPECT_TRUE(result.is_complete);
  EXPECT_TRUE(file_exists(folder / "scheduler/scheduler_config.json"));
  EXPECT_EQ(installed_handler(SIGINT), SIG_DFL);
}

TEST(Signals, StartNoPreview) {
  for (const bool by_signal : {true, false}) {
    const TemporaryFolder folder;
    TrainingConfig config = stoppable_config(folder);
    config.validation_steps = 1;
    Trainer trainer(seeded_net(), DDPMScheduler(), config);
    std::vector<int64_t> previews;
    std::vector<int64_t> validations;
    trainer.on_step([&](int64_t step) {
      if (step != 2) return;
      if (by_signal) {
        std::raise(SIGUSR1);
      } else {
        trainer.request_stop();
      }
    });
    trainer.on_preview([&](const PreviewContext& context) { previews.push_back(context.step); });
    trainer.on_validation([&](const ValidationResult& result) { validations.push_back(result.step); });
    const TrainingResult result = trainer.train(TinyImages(12), TinyImages(4));
    EXPECT_FALSE(result.is_complete);
    EXPECT_EQ(result.global_step, 2);
    EXPECT_EQ(result.signal, by_signal ? std::optional<int>(SIGUSR1) : std::nullopt);
    EXPECT_EQ(previews, std::vector<int64_t>{1});
    EXPECT_EQ(validations, std::vector<int64_t>{1});
  }
}

TEST(Signals, StopNestedTrainings) {
  const OwnHandler own;
  const TemporaryFolder outer_folder;
  const TemporaryFolder inner_folder;
  TrainingConfig config = stoppable_config(outer_folder);
  config.validation_steps = 1;
  Trainer outer(seeded_net(), DDPMScheduler(), config);
  std::vector<TrainingResult> inner_results;
  outer.on_preview([&](const PreviewContext& context) {
    TrainingConfig inner_config = stoppable_config(inner_folder);
    inner_config.overwrite_output_dir = true;
    Trainer inner(seeded_net(), DDPMScheduler(), inner_config);
    if (context.step == 2) inner.on_step([](int64_t) { std::raise(SIGUSR1); });
    inner_results.push_back(inner.train(TinyImages(12)));
  });
  const TrainingResult result = outer.train(TinyImages(12));
  ASSERT_EQ(inner_results.size(), 2U);
  EXPECT_TRUE(inner_results[0].is_complete);
  EXPECT_EQ(inner_results[0].signal, std::nullopt);
  EXPECT_EQ(inner_results[1].signal, SIGUSR1);
  EXPECT_EQ(inner_results[1].global_step, 1);
  EXPECT_EQ(result.signal, SIGUSR1);
  EXPECT_EQ(result.global_step, 2);
  EXPECT_EQ(g_signals_of_the_program, 0);
  EXPECT_EQ(installed_handler(SIGUSR1), count_signal);
}

TEST(Signals, StopTrainingsOfAllThreads) {
  const OwnHandler own;
  std::vector<TrainingResult> results(2);
  std::atomic<int> started{0};
  std::vector<std::thread> threads;
  for (TrainingResult& result : results)
    threads.emplace_back([&] {
      const TemporaryFolder folder;
      TrainingConfig config = stoppable_config(folder);
      config.max_train_steps = 100000;
      config.logging_steps = 1000;
      Trainer trainer(test::TinyNet(), DDPMScheduler(), config);
      trainer.on_step([&](int64_t step) {
        if (step == 1) ++started;
      });
      result = trainer.train(TinyImages(12));
    });
  while (started < 2) std::this_thread::yield();
  std::raise(SIGUSR1);
  for (std::thread& thread : threads) thread.join();
  for (const TrainingResult& result : results) {
    EXPECT_EQ(result.signal, SIGUSR1);
    EXPECT_FALSE(result.is_complete);
  }
  EXPECT_EQ(g_signals_of_the_program, 0);
  EXPECT_EQ(installed_handler(SIGUSR1), count_signal);
}

TEST(Trainer, SharesDeterministicAlgorithmsWithOtherTrainings) {
  const TemporaryFolder outer_folder;
  const TemporaryFolder inner_folder;
  TrainingConfig config = quiet_config(outer_folder.path());
  config.deterministic = true;
  Trainer outer(seeded_net(), DDPMScheduler(), config);
  outer.on_step([&](int64_t) {
    EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
    TrainingConfig inner_config = quiet_config(inner_folder.path());
    inner_config.overwrite_output_dir = true;  // one inner training a step
    inner_config.deterministic = true;
    Trainer(seeded_net(), DDPMScheduler(), inner_config).train(TinyImages(4));
    EXPECT_TRUE(at::globalContext().deterministicAlgorithms());
  });
  outer.train(TinyImages(8));
  EXPECT_FALSE(at::globalContext().deterministicAlgorithms());
}

}  // namespace
}  // namespace diffusers
