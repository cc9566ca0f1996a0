// A training of some milliseconds. The scripts next to this file kill it, let its disk fail, and damage its
// files.
//
// It reads one request per line from standard input, `key=value key=value ...`, and runs each in a child
// process, so LibTorch is loaded once. It prints "pid N" when the child runs and "exit STATUS FIRST LAST"
// when it has ended: the exit code or minus the signal, and the first and the last step that was trained.

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faults/request.h"
#include "faults/tiny_tasks.h"

namespace diffusers::faults {
namespace {

/// Memory that a child shares with the server.
struct Progress {
  std::atomic<int64_t> first_step = 0;
  std::atomic<int64_t> last_step = 0;
  char errors[4096] = {};  // not logged immediately, since the child's write() may be made to fail

  void add_error(const char* kind, const char* what) {
    const std::size_t used = std::strlen(errors);
    std::snprintf(errors + used, sizeof(errors) - used, "%s: %s\n", kind, what);
  }
};

TrainingConfig config_of(const Request& request) {
  TrainingConfig config;
  config.output_dir = request.text("out");
  config.seed = 5;
  config.train_batch_size = 3;
  config.max_train_steps = request.number("steps", 10);
  config.gradient_accumulation_steps = request.number("accumulate", 2);
  config.learning_rate = 1e-2;
  config.lr_warmup_steps = 2;
  config.use_ema = request.text("task") != "textual_inversion";  // which has no averaged weights
  config.checkpointing_steps = request.number("every", 2);
  config.checkpoints_total_limit = request.number("limit", 2);
  if (request.number("resume", 0) != 0) config.resume_from_checkpoint = "latest";
  config.background_checkpoints = request.number("background", 1) != 0;
  config.validation_steps = request.number("previews", 0);
  config.logging_steps = 4;
  config.progress_bar = false;
  config.tensorboard = config.report = request.number("logs", 0) != 0;
  config.dataloader_num_workers = request.number("workers", 0);
  config.handle_signals = request.number("handle_signals", 0) != 0;
  return config;
}

int train(const Request& request, const TrainingConfig& config, Progress& progress) {
  manual_seed(1);
  Trainer trainer(make_task(request), config);
  trainer.on_preview([](const PreviewContext& context) {
    // Draws random numbers, as sampling does, and stops on request.
    for (int i = 0; i < 50 && !context.stop_requested(); ++i) at::randn({1000});
  });
  const int64_t gate = request.number("gate", -1);
  trainer.on_step([&](int64_t step) {
    if (progress.first_step == 0) progress.first_step = step;
    progress.last_step = step;
    if (step == gate) wait_at_gate();
    if (step == request.number("stop", -1)) trainer.request_stop();
  });
  if (gate == 0) wait_at_gate();
  // An epoch has 6 batches: 3 steps of two batches or 2 steps of four.
  const TrainingResult result = trainer.train(*make_dataset(request));
  return result.signal ? 128 + *result.signal : 0;
}

int serve(const Request& request, Progress& progress) {
  ::umask(static_cast<mode_t>(request.number("umask", 022)));
  at::set_num_threads(1);
  TrainingConfig config = config_of(request);
  try {
    return train(request, config, progress);
  } catch (const std::exception& error) {
    progress.add_error("error", error.what());
    const std::string ballast = request.text("ballast");
    if (ballast.empty()) return 1;
    // There is free space again, and the same process continues.
    remove_file(ballast);
  }
  try {
    config.resume_from_checkpoint = "latest";
    return train(request, config, progress);
  } catch (const std::exception& error) {
    progress.add_error("second error", error.what());
    return 2;
  }
}

[[noreturn]] void run_child(const Request& request, Progress& progress) {
  const int log = ::open(request.text("log").c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  ::dup2(log, STDOUT_FILENO);
  ::dup2(log, STDERR_FILENO);
  ::close(log);
  ::_exit(serve(request, progress));
}

void serve_requests(Progress& progress) {
  for (std::string line; std::getline(std::cin, line);) {
    const Request request(line);
    progress.first_step = 0;
    progress.last_step = 0;
    progress.errors[0] = '\0';
    const pid_t child = ::fork();
    if (child == 0) run_child(request, progress);
    std::printf("pid %d\n", child);
    std::fflush(stdout);
    // Sends a signal after some time. The child has not been waited for, so its id cannot belong to another
    // process.
    for (const char* which : {"signal", "second_signal"}) {
      const auto number = static_cast<int>(request.number(which, 0));
      if (number == 0) continue;
      ::usleep(static_cast<useconds_t>(request.number(std::string(which) + "_us", 0)));
      ::kill(child, number);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    std::ofstream(request.text("log"), std::ios::app) << progress.errors;
    std::printf("exit %d %lld %lld\n", WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status),
                static_cast<long long>(progress.first_step.load()),
                static_cast<long long>(progress.last_step.load()));
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace diffusers::faults

int main() {
  void* shared = ::mmap(nullptr, sizeof(diffusers::faults::Progress), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) return 1;
  diffusers::faults::serve_requests(*new (shared) diffusers::faults::Progress);
  return 0;
}
