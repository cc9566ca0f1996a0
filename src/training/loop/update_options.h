#pragma once

// Finds the options of a TrainingConfig that no update of a task takes.

#include <string_view>
#include <vector>

#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

namespace diffusers {
inline namespace internal {

/// An option that reaches a training through its updates alone.
struct UpdateOption {
  std::string_view key;                   ///< name of the field
  void (*reset)(TrainingConfig& config);  ///< gives the field its default
  std::string_view reason;                ///< why no update takes the field, for the message
};

/// Returns these options. An option comes before the one that it needs, so that a message names it first.
const std::vector<UpdateOption>& update_options();

/// Refuses changed options that no update of the task takes, because each brings its own.
/// @throws ConfigError naming the field, its value and the updates
void require_options_of_updates(const Task& task, const TrainingConfig& config);

}  // namespace internal
}  // namespace diffusers
