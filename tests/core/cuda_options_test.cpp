#include <cstdio>
#include <cstdlib>
#include <string>

#include <diffusers/core/cuda_options.h>
#include <diffusers/core/error.h>

#include <ATen/Context.h>
#include <gtest/gtest.h>

namespace diffusers {
namespace {

TEST(CudaOptions, AreOffByDefault) {
  const CudaOptions options = parse_cuda_options("");
  EXPECT_EQ(options, CudaOptions());
  EXPECT_FALSE(options.kernels || options.channels_last || options.async_copies || options.graphs);
  // PyTorch's defaults.
  EXPECT_FALSE(options.allow_tf32);
  EXPECT_TRUE(options.allow_tf32_cudnn);
  EXPECT_FALSE(options.cudnn_benchmark);
}

TEST(CudaOptions, ParseNamesEachOption) {
  CudaOptions expected;
  expected.kernels = expected.graphs = true;
  EXPECT_EQ(parse_cuda_options("kernels,graphs"), expected);
  expected.channels_last = expected.async_copies = expected.allow_tf32 = expected.cudnn_benchmark = true;
  expected.allow_tf32_cudnn = false;
  EXPECT_EQ(parse_cuda_options("no_cudnn_tf32,kernels,channels_last,async_copies,graphs,allow_tf32,"
                               "cudnn_benchmark"),
            expected);
  for (const char* const wrong : {"kernel", "kernels,,graphs", "kernels, graphs", "1"}) {
    try {
      parse_cuda_options(wrong);
      ADD_FAILURE() << wrong;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find("expected some of: kernels, channels_last"), std::string::npos)
          << error.what();
    }
  }
}

TEST(CudaOptions, ArePassedToLibTorch) {
  const CudaOptions before = cuda_options();
  CudaOptions options;
  options.allow_tf32 = options.cudnn_benchmark = options.graphs = true;
  options.allow_tf32_cudnn = false;
  set_cuda_options(options);
  EXPECT_EQ(cuda_options(), options);
  EXPECT_TRUE(at::globalContext().allowTF32CuBLAS());
  EXPECT_FALSE(at::globalContext().allowTF32CuDNN());
  EXPECT_TRUE(at::globalContext().benchmarkCuDNN());
  set_cuda_options(before);
  EXPECT_FALSE(at::globalContext().allowTF32CuBLAS());
  EXPECT_TRUE(at::globalContext().allowTF32CuDNN());
  EXPECT_FALSE(at::globalContext().benchmarkCuDNN());
}

/// Exits with 1 if DIFFUSERS_CUDA switches on the graphs and TF32, with 0 if not, and with 2 for an
/// exception.
[[noreturn]] void exit_with_options() {
  try {
    const CudaOptions options = cuda_options();
    std::_Exit(options.graphs && options.allow_tf32 && at::globalContext().allowTF32CuBLAS() ? 1 : 0);
  } catch (const ConfigError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(2);
  }
}

TEST(CudaOptionsDeathTest, EnvironmentVariableSetsTheInitialValue) {
  // The child process starts anew and reads the variable.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ::setenv("DIFFUSERS_CUDA", "graphs,allow_tf32", 1);
  EXPECT_EXIT(exit_with_options(), ::testing::ExitedWithCode(1), "");
  ::setenv("DIFFUSERS_CUDA", "", 1);
  EXPECT_EXIT(exit_with_options(), ::testing::ExitedWithCode(0), "");
  ::setenv("DIFFUSERS_CUDA", "graph", 1);
  EXPECT_EXIT(exit_with_options(), ::testing::ExitedWithCode(2), "DIFFUSERS_CUDA names \"graph\"");
  ::unsetenv("DIFFUSERS_CUDA");
}

}  // namespace
}  // namespace diffusers
