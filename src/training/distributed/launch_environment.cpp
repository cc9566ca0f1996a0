#include "training/distributed/launch_environment.h"

#include <array>
#include <charconv>
#include <limits>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr int64_t kMostProcesses = int64_t{1} << 20;
constexpr int64_t kLargestPort = 65535;

/// The names under which a launcher gives its numbers.
struct LauncherVariables {
  const char* launcher;
  const char* rank;
  const char* world_size;
  const char* local_rank;
};

constexpr std::array<LauncherVariables, 4> kLaunchers{{
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"},
    {"mpirun", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"mpirun", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {"srun", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
}};

int64_t parse_number(const std::string& name, const std::string& text, int64_t least, int64_t most) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  require<ConfigError>(error == std::errc() && rest == end && value >= least && value <= most,
                       "the environment variable {} is \"{}\", expected a number from {} to {}", name, text,
                       least, most);
  return value;
}

std::optional<int64_t> read_number(const VariableReader& variable, const std::string& name, int64_t least,
                                   int64_t most) {
  const std::optional<std::string> text = variable(name);
  return text ? std::optional<int64_t>(parse_number(name, *text, least, most)) : std::nullopt;
}

/// Reads the rank, the number of processes and the local rank.
/// @return nullopt if the launcher set none of them
std::optional<LaunchEnvironment> read_ranks(const LauncherVariables& names, const VariableReader& variable) {
  const std::optional<int64_t> rank = read_number(variable, names.rank, 0, kMostProcesses - 1);
  const std::optional<int64_t> world_size = read_number(variable, names.world_size, 1, kMostProcesses);
  const std::optional<int64_t> local_rank = read_number(variable, names.local_rank, 0, kMostProcesses - 1);
  if (!rank && !world_size && !local_rank) return std::nullopt;
  require<ConfigError>(
      rank && world_size,
      "the environment variable {} is set, but {} is not; expected {} and {}, as {} sets them, or none of "
      "them, for a training of one process",
      rank         ? names.rank
      : world_size ? names.world_size
                   : names.local_rank,
      rank ? names.world_size : names.rank, names.rank, names.world_size, names.launcher);
  require<ConfigError>(*rank < *world_size,
                       "the environment variables contradict each other: {} is {} and {} is {}; expected a "
                       "rank below the number of processes",
                       names.rank, *rank, names.world_size, *world_size);
  LaunchEnvironment found{.rank = *rank, .world_size = *world_size, .local_rank = local_rank};
  require<ConfigError>(found.local_rank.value_or(0) < *world_size,
                       "the environment variables contradict each other: {} is {} and {} is {}; expected a "
                       "local rank below the number of processes",
                       names.local_rank, found.local_rank.value_or(0), names.world_size, *world_size);
  return found;
}

}  // namespace

std::optional<LaunchEnvironment> read_launch_environment(const VariableReader& variable) {
  std::optional<LaunchEnvironment> found;
  const LauncherVariables* launcher = nullptr;
  for (const LauncherVariables& names : kLaunchers) {
    launcher = &names;
    found = read_ranks(names, variable);
    if (found) break;
  }
  if (!found) return std::nullopt;
  const std::optional<std::string> address = variable("MASTER_ADDR");
  if (found->world_size == 1 && !address) return std::nullopt;
  require<ConfigError>(
      address && !address->empty(),
      "{} is {}, but the environment variable MASTER_ADDR is not set; expected the name or address of "
      "the machine of rank 0 (torchrun sets it; with srun and mpirun, export MASTER_ADDR and MASTER_PORT). "
      "For a training of one process, unset {} and {}",
      launcher->world_size, found->world_size, launcher->rank, launcher->world_size);
  const std::optional<int64_t> port = read_number(variable, "MASTER_PORT", 1, kLargestPort);
  require<ConfigError>(
      port.has_value(),
      "MASTER_ADDR is {}, but the environment variable MASTER_PORT is not set; expected a free "
      "port of that machine, the same for all processes",
      *address);
  found->master_addr = *address;
  found->master_port = *port;
  found->uses_agent_store = variable("TORCHELASTIC_USE_AGENT_STORE") == "True";
  found->restart_count =
      read_number(variable, "TORCHELASTIC_RESTART_COUNT", 0, std::numeric_limits<int32_t>::max()).value_or(0);
  return found;
}

}  // namespace internal
}  // namespace diffusers
