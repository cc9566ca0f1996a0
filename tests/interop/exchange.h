#pragma once

// Shared functions of the C++ sides of the interop tests: comparison, and the commands `PROGRAM save DIR` and
// `PROGRAM check DIR`.

#include <cstdio>
#include <exception>
#include <string>

#include <diffusers/core/tensor.h>

#include <torch/types.h>

namespace diffusers::test {

/// Compares two tensors and prints the difference if it exceeds the tolerance, which is also relative to the
/// largest element.
inline bool close(const std::string& name, const Tensor& found, const Tensor& expected, double tolerance) {
  const double scale = expected.abs().max().item<double>();
  if (torch::allclose(found, expected, tolerance, tolerance * scale)) return true;
  std::fprintf(stderr, "%s: differs by %g, largest element %g\n", name.c_str(),
               (found - expected).abs().max().item<double>(), scale);
  return false;
}

/// @return the exit code: 0 for success, 1 for a failure, 2 for wrong arguments
template <class Save, class Check>
int save_or_check(int argc, char** argv, const char* program, Save&& save, Check&& check) {
  try {
    const std::string action = argc == 3 ? argv[1] : "";
    if (action == "save") {
      save(argv[2]);
      return 0;
    }
    if (action == "check") return check(argv[2]) ? 0 : 1;
    std::fprintf(stderr, "usage: %s save|check DIR\n", program);
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

}  // namespace diffusers::test
