#include "ops/cpu/instruction_set.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "ops/cpu/kernels.h"
#include "ops/cpu/matrix_product.h"
#include "ops/cpu/winograd.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using cpu::InstructionSet;
using cpu::limited_instruction_set;

TEST(InstructionSets, TheVariableLimitsThem) {
  for (const InstructionSet machine :
       {InstructionSet::kNone, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
    EXPECT_EQ(limited_instruction_set(nullptr, machine), machine);
    EXPECT_EQ(limited_instruction_set("", machine), machine);
    EXPECT_EQ(limited_instruction_set("avx512", machine), machine);
    EXPECT_EQ(limited_instruction_set("avx2", machine), std::min(machine, InstructionSet::kAvx2));
    EXPECT_EQ(limited_instruction_set("default", machine), InstructionSet::kNone);
  }
  for (const char* wrong : {"avx", "AVX2", "sse4", "0"})
    test::expect_throws_with<ConfigError>([&] { limited_instruction_set(wrong, InstructionSet::kAvx2); },
                                          "DIFFUSERS_CPU_CAPABILITY is \"" + std::string(wrong) + "\"");
}

TEST(InstructionSets, KernelsFollowThem) {
  const InstructionSet set = cpu::instruction_set();
  EXPECT_EQ(cpu::kernels_available(), set != InstructionSet::kNone);
  EXPECT_EQ(cpu::avx512_available(), set == InstructionSet::kAvx512);
  if (set == InstructionSet::kNone) {
    EXPECT_EQ(cpu::winograd_kernel(), nullptr);
    EXPECT_EQ(cpu::matrix_kernel(), nullptr);
  } else {
    const bool has_avx512 = set == InstructionSet::kAvx512;
    EXPECT_EQ(cpu::winograd_kernel(),
              has_avx512 ? &cpu::winograd_kernel_avx512() : &cpu::winograd_kernel_avx2());
    EXPECT_EQ(cpu::matrix_kernel(), has_avx512 ? &cpu::matrix_kernel_avx512() : &cpu::matrix_kernel_avx2());
  }
}

}  // namespace
}  // namespace diffusers
