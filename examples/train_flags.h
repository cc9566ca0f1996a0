#pragma once

// The flags that the training programs share: each names a field of `TrainingConfig` or of the scheduler's
// config. The names and defaults are those of diffusers' training scripts.

#include <string>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/training_config.h>

#include "flags.h"

/// Flags of the optimizer, the loop, the loss, checkpoints and logs.
const FlagTable<diffusers::TrainingConfig>& training_flags();

/// Flags of the diffusion task that Python's scripts do not have.
const FlagTable<diffusers::DiffusionTaskOptions>& task_flags();

/// Flags of the noise schedule.
const FlagTable<diffusers::DDPMSchedulerConfig>& scheduler_flags();

/// A flag of a Python script that a C++ program cannot have.
struct RefusedFlag {
  std::string name;
  std::string reason;
};

/// Flags that need a service or a package of Python's.
const std::vector<RefusedFlag>& refused_flags();

/// Ends the parsing where one of `refused_flags` or `more` is given, and names them in the help text.
/// @throws diffusers::ConfigError with the reason
void refuse_python_flags(CLI::App& app, int argc, char** argv, const std::vector<RefusedFlag>& more = {});

/// Validator of `--report_to` and `--logger`: tensorboard.
CLI::Validator available_logger();
