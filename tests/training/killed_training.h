#pragma once

// Trainings in separate processes that are killed and resumed.

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "training/checkpoint/checkpoint.h"

namespace diffusers::test {

/// The environment variable that names the output folder of the training.
inline constexpr const char* kProcessFolder = "DIFFUSERS_TEST_TRAINING_FOLDER";

/// Starts this test program in a new process with one disabled test.
inline pid_t spawn_training(const std::string& folder, const std::string& test) {
  ::setenv(kProcessFolder, folder.c_str(), 1);
  std::string program = "/proc/self/exe";
  std::string filter = "--gtest_filter=" + test;
  std::string disabled = "--gtest_also_run_disabled_tests";
  std::vector<char*> arguments{program.data(), filter.data(), disabled.data(), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  for (const int stream : {STDOUT_FILENO, STDERR_FILENO})
    ::posix_spawn_file_actions_addopen(&actions, stream, "/dev/null", O_WRONLY, 0);
  pid_t process = -1;
  EXPECT_EQ(::posix_spawn(&process, program.c_str(), &actions, nullptr, arguments.data(), environ), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  return process;
}

/// Kills and resumes a training repeatedly until it has run all steps.
/// @param test a disabled test that trains or resumes in the folder of kProcessFolder
/// @return the number of kills that hit a running process
inline int train_with_kills(const std::string& folder, const std::string& test, int64_t steps) {
  const auto newest = [&] {
    const std::vector<int64_t> saved = list_checkpoints(folder);
    return saved.empty() ? int64_t{0} : saved.back();
  };
  int kills = 0;
  while (newest() < steps) {
    const int64_t before = newest();
    const pid_t process = spawn_training(folder, test);
    int status = 0;
    // The process is killed shortly after a new checkpoint: in a step, in a preview or during a save.
    bool has_ended = false;
    while (newest() == before && !has_ended) {
      ::usleep(1000);
      has_ended = ::waitpid(process, &status, WNOHANG) == process;
    }
    if (!has_ended) {
      ::usleep(static_cast<useconds_t>(std::rand() % 20000));
      ::kill(process, SIGKILL);
      ::waitpid(process, &status, 0);
    }
    const bool is_killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    if (is_killed) ++kills;
    EXPECT_TRUE(is_killed || (WIFEXITED(status) && WEXITSTATUS(status) == 0)) << "status " << status;
    EXPECT_GT(newest(), before) << "the training process made no progress";
    if (::testing::Test::HasFailure()) break;
  }
  return kills;
}

}  // namespace diffusers::test
