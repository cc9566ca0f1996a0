#include "training_group.h"

#include <cstdio>
#include <optional>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>

using namespace diffusers;

namespace {

std::optional<ProcessGroup>& joined_group() {
  static std::optional<ProcessGroup> group;
  return group;
}

}  // namespace

ProcessGroupOptions& training_group_options() {
  static ProcessGroupOptions options;
  return options;
}

const ProcessGroup& training_group() {
  std::optional<ProcessGroup>& group = joined_group();
  if (!group) {
    group = ProcessGroup::from_environment(training_group_options());
    if (!group->is_main()) {
      set_verbosity(LogLevel::kError);
      if (std::freopen("/dev/null", "w", stdout) == nullptr) throw FileError("/dev/null cannot be opened");
    }
  }
  return *group;
}

void in_turn(const std::function<void()>& work) {
  const ProcessGroup& group = training_group();
  for (int64_t rank = 0; rank < group.world_size(); ++rank) {
    if (rank == group.rank()) work();
    group.barrier();
  }
}

void abort_training_group(const char* reason) noexcept {
  if (joined_group()) joined_group()->abort(reason);
}

void leave_training_group() noexcept { joined_group().reset(); }
