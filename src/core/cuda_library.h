#pragma once

// LibTorch's CUDA library and this library's CUDA code are loaded at run time, where there is a CUDA driver.
// In other programs they would take 230 MiB of memory and half of the time of a start.

#include <string>

namespace diffusers {
inline namespace internal {

/// Returns true if a CUDA driver is installed and CUDA_VISIBLE_DEVICES does not hide all devices.
bool has_visible_cuda_driver();

/// Loads libtorch_cuda.so from the folder of LibTorch. With it, `at::hasCUDA` looks for devices. A program
/// does so before `main`, if `has_visible_cuda_driver`.
/// @return why it cannot be loaded; empty if it is loaded, or if LibTorch was built without CUDA
std::string load_torch_cuda();

/// Returns the address of a function that libdiffusers_cuda.so exports. The first call loads that library:
/// the file that DIFFUSERS_CUDA_LIBRARY names, else from the folder of the program or of libdiffusers.so,
/// from the folders of the build and of the installation, or as the dynamic linker finds it.
/// @throws Error if it cannot be loaded, is of another version, or does not export the function
void* cuda_function_address(const char* name);

/// Returns a function that libdiffusers_cuda.so exports.
/// @tparam Function its type, for example `const Exports*()`
/// @throws Error as `cuda_function_address`
template <class Function>
Function* cuda_function(const char* name) {
  return reinterpret_cast<Function*>(cuda_function_address(name));
}

}  // namespace internal
}  // namespace diffusers
