#pragma once

// The processes that train together when a launcher such as torchrun started the program.

#include <functional>

#include <diffusers/training/process_group.h>

/// Returns the options of the group, which the flags `--ddp_*` and `--zero_stage` set.
diffusers::ProcessGroupOptions& training_group_options();

/// Returns the group that the environment describes; see `ProcessGroup::from_environment`. The first call
/// joins it. The standard output and the warnings of processes other than rank 0 are dropped then.
/// @throws diffusers::Error if the processes do not meet
const diffusers::ProcessGroup& training_group();

/// Runs a function in one process after another, rank 0 first: for work whose result is a file that the
/// others read.
void in_turn(const std::function<void()>& work);

/// Tells the other processes why this one ends, if it is in a group.
void abort_training_group(const char* reason) noexcept;

/// Closes the connections. `run_program` calls it.
void leave_training_group() noexcept;
