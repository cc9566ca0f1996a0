#include "core/cuda_library.h"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include <diffusers/core/error.h>

#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

namespace diffusers {
namespace {

bool is_loaded(const std::string& library) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);)
    if (line.find(library) != std::string::npos) return true;
  return false;
}

bool has_cuda_kernels() {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow("aten::mm", "")
      .hasKernelForDispatchKey(c10::DispatchKey::CUDA);
}

/// Ends a child process. A library that a test loads stays loaded.
[[noreturn]] void end(bool succeeded) { std::_Exit(succeeded ? 0 : 1); }

using ::testing::ExitedWithCode;

TEST(CudaLibrary, IsNotLoadedWithoutADriver) {
  if (has_visible_cuda_driver()) GTEST_SKIP() << "there is a CUDA driver";
  EXPECT_FALSE(is_loaded("libtorch_cuda"));
  EXPECT_FALSE(has_cuda_kernels());
}

TEST(CudaLibrary, HiddenDevicesDoNotCount) {
  for (const char* hidden : {"", "-1"})
    EXPECT_EXIT(
        {
          ::setenv("CUDA_VISIBLE_DEVICES", hidden, 1);
          end(!has_visible_cuda_driver());
        },
        ExitedWithCode(0), "");
}

TEST(CudaLibrary, BringsLibTorchsCudaKernels) {
  EXPECT_EXIT(
      {
        const std::string error = load_torch_cuda();
        std::fputs(error.c_str(), stderr);
        const bool is_expected = DIFFUSERS_TEST_TORCH_HAS_CUDA != 0;
        end(error.empty() && is_loaded("libtorch_cuda") == is_expected && has_cuda_kernels() == is_expected);
      },
      ExitedWithCode(0), "");
}

#if defined(DIFFUSERS_WITH_CUDA)
TEST(CudaLibrary, ExportsItsFunctions) {
  EXPECT_EXIT(
      {
        for (const char* name :
             {"diffusers_cuda_version", "diffusers_cuda_ops", "diffusers_new_cuda_graph_backend"})
          if (cuda_function_address(name) == nullptr) end(false);
        try {
          cuda_function_address("diffusers_cuda_nothing");
        } catch (const Error& error) {
          end(std::string(error.what()).find("does not export diffusers_cuda_nothing") != std::string::npos);
        }
        end(false);
      },
      ExitedWithCode(0), "");
}

TEST(CudaLibrary, AWrongFileIsNamed) {
  EXPECT_EXIT(
      {
        ::setenv("DIFFUSERS_CUDA_LIBRARY", "/absent/libdiffusers_cuda.so", 1);
        try {
          cuda_function_address("diffusers_cuda_ops");
        } catch (const Error& error) {
          end(std::string(error.what()).find("/absent/libdiffusers_cuda.so") != std::string::npos);
        }
        end(false);
      },
      ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace diffusers
