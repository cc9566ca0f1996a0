#pragma once

// The flags that all training programs have. Each flag sets a field of `TrainingConfig`, of
// `DiffusionTaskOptions` or of the scheduler's config. The names and defaults are those of diffusers'
// training scripts.

#include <string>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/training_config.h>

#include "flags.h"

/// Returns the flags of the optimizer, the loop, the loss, checkpoints and logs.
const FlagTable<diffusers::TrainingConfig>& training_flags();

/// Returns the flags of the diffusion task that Python's scripts do not have.
const FlagTable<diffusers::DiffusionTaskOptions>& task_flags();

/// Returns the flags of the noise schedule.
const FlagTable<diffusers::DDPMSchedulerConfig>& scheduler_flags();

/// A flag of a Python script that the C++ programs do not support.
struct RefusedFlag {
  std::string name;
  std::string reason;
};

/// Returns the flags that need a service or a Python package.
const std::vector<RefusedFlag>& refused_flags();

/// Throws if one of `refused_flags` or `more` is given, and lists these flags in the help text.
/// @throws diffusers::ConfigError with the reason
void refuse_python_flags(CLI::App& app, int argc, char** argv, const std::vector<RefusedFlag>& more = {});

/// Joins the group of processes, and sets the fields of flags that were not given and whose defaults depend
/// on other flags: no warm-up for a constant learning rate, no limit of steps with `--num_epochs`, and the
/// betas of other optimizers than Adam.
void complete_training_flags(const CLI::App& app, diffusers::TrainingConfig& training);

/// Returns the validator of `--report_to` and `--logger`: tensorboard.
CLI::Validator available_logger();
