#pragma once

// What the C++ sides of the interop tests share: comparison, and `PROGRAM save DIR`, `PROGRAM check DIR`.

#include <cstdio>
#include <exception>
#include <string>

#include <diffusers/core/tensor.h>

#include <torch/types.h>

namespace diffusers::test {

/// Prints by how much, if not within the tolerance, which is relative to the largest element as well.
inline bool close(const std::string& name, const Tensor& found, const Tensor& expected, double tolerance) {
  const double scale = expected.abs().max().item<double>();
  if (torch::allclose(found, expected, tolerance, tolerance * scale)) return true;
  std::fprintf(stderr, "%s: differs by %g, largest element %g\n", name.c_str(),
               (found - expected).abs().max().item<double>(), scale);
  return false;
}

/// @return what main() does: 0 if it went well, 1 if not, 2 for other arguments
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
