#pragma once

// The variables by which a launcher tells a process its rank.

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace diffusers {
inline namespace internal {

/// What a launcher has told a process.
struct LaunchEnvironment {
  int64_t rank = 0;
  int64_t world_size = 1;
  std::optional<int64_t> local_rank = std::nullopt;
  std::string master_addr = {};
  int64_t master_port = 0;
  /// True if the launcher holds the store of the rendezvous: rank 0 must not open one.
  bool uses_agent_store = false;
  /// Number of the restart, from 0. Each one needs keys of its own in the launcher's store.
  int64_t restart_count = 0;
};

/// Returns the value of a variable; nullopt: it is not set.
using VariableReader = std::function<std::optional<std::string>(const std::string& name)>;

/// Reads the variables of torchrun, mpirun and srun.
/// @return nullopt if there is no launcher, or a launcher of one process that gives no MASTER_ADDR
/// @throws ConfigError naming a variable that is missing, malformed or contradicts another one
std::optional<LaunchEnvironment> read_launch_environment(const VariableReader& variable);

}  // namespace internal
}  // namespace diffusers
