#include "training/distributed/launch_environment.h"

#include <array>
#include <map>
#include <optional>
#include <string>

#include <diffusers/core/error.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

using Variables = std::map<std::string, std::string>;

std::optional<LaunchEnvironment> read(const Variables& variables) {
  return read_launch_environment([&](const std::string& name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional<std::string>(found->second);
  });
}

std::string error_of(const Variables& variables) {
  try {
    read(variables);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

Variables with_address(Variables variables) {
  variables.emplace("MASTER_ADDR", "10.0.0.1");
  variables.emplace("MASTER_PORT", "29500");
  return variables;
}

TEST(LaunchEnvironment, NoVariablesMeanOneProcess) {
  EXPECT_FALSE(read({}));
  EXPECT_FALSE(read({{"MASTER_ADDR", "10.0.0.1"}, {"MASTER_PORT", "29500"}}));
}

TEST(LaunchEnvironment, OneProcessOfALauncherNeedsNoAddress) {
  EXPECT_FALSE(read({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "1"}, {"SLURM_LOCALID", "0"}}));
  EXPECT_TRUE(read(with_address({{"RANK", "0"}, {"WORLD_SIZE", "1"}})));
}

TEST(LaunchEnvironment, ReadsTheVariablesOfEachLauncher) {
  for (const auto& [rank, size, local] :
       {std::array{"RANK", "WORLD_SIZE", "LOCAL_RANK"},
        std::array{"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
        std::array{"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
        std::array{"SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"}}) {
    const auto found = read(with_address({{rank, "5"}, {size, "8"}, {local, "1"}}));
    ASSERT_TRUE(found) << rank;
    EXPECT_EQ(found->rank, 5);
    EXPECT_EQ(found->world_size, 8);
    EXPECT_EQ(found->local_rank, 1);
    EXPECT_EQ(found->master_addr, "10.0.0.1");
    EXPECT_EQ(found->master_port, 29500);
    EXPECT_FALSE(found->uses_agent_store);
  }
}

TEST(LaunchEnvironment, TorchrunWithinSlurmCounts) {
  const auto found = read(with_address({{"RANK", "3"},
                                        {"WORLD_SIZE", "4"},
                                        {"LOCAL_RANK", "1"},
                                        {"SLURM_PROCID", "1"},
                                        {"SLURM_NTASKS", "2"},
                                        {"TORCHELASTIC_USE_AGENT_STORE", "True"},
                                        {"TORCHELASTIC_RESTART_COUNT", "2"}}));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 3);
  EXPECT_TRUE(found->uses_agent_store);
  EXPECT_EQ(found->restart_count, 2);
}

TEST(LaunchEnvironment, NamesAVariableThatIsMissing) {
  EXPECT_NE(error_of({{"RANK", "0"}}).find("RANK is set, but WORLD_SIZE is not"), std::string::npos);
  EXPECT_NE(error_of({{"WORLD_SIZE", "2"}}).find("WORLD_SIZE is set, but RANK is not"), std::string::npos);
  EXPECT_NE(error_of({{"LOCAL_RANK", "0"}}).find("LOCAL_RANK is set, but RANK is not"), std::string::npos);
  EXPECT_NE(error_of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "2"}}).find("MASTER_ADDR is not set"),
            std::string::npos);
  EXPECT_NE(
      error_of({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "host"}}).find("MASTER_PORT is not set"),
      std::string::npos);
}

TEST(LaunchEnvironment, NamesAVariableThatIsMalformed) {
  EXPECT_NE(error_of({{"RANK", "first"}, {"WORLD_SIZE", "2"}}).find("RANK is \"first\""), std::string::npos);
  EXPECT_NE(error_of({{"RANK", "-1"}, {"WORLD_SIZE", "2"}}).find("RANK is \"-1\""), std::string::npos);
  EXPECT_NE(error_of({{"RANK", "0"}, {"WORLD_SIZE", "0"}}).find("WORLD_SIZE is \"0\""), std::string::npos);
  Variables variables = with_address({{"RANK", "0"}, {"WORLD_SIZE", "2"}});
  variables["MASTER_PORT"] = "65536";
  EXPECT_NE(error_of(variables).find("MASTER_PORT is \"65536\""), std::string::npos);
}

TEST(LaunchEnvironment, NamesVariablesThatContradictEachOther) {
  EXPECT_NE(
      error_of(with_address({{"RANK", "2"}, {"WORLD_SIZE", "2"}})).find("RANK is 2 and WORLD_SIZE is 2"),
      std::string::npos);
  EXPECT_NE(error_of(with_address({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"LOCAL_RANK", "2"}}))
                .find("LOCAL_RANK is 2 and WORLD_SIZE is 2"),
            std::string::npos);
}

}  // namespace
}  // namespace diffusers
