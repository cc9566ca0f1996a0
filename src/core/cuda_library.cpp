#include "core/cuda_library.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

constexpr const char* kCudaLibrary = "libdiffusers_cuda.so";

std::string_view folder_of(std::string_view path) { return path.substr(0, path.rfind('/')); }

std::string loader_error() {
  const char* text = ::dlerror();
  return text != nullptr ? text : "unknown error";
}

/// Returns the path of the loaded libtorch_cpu.so; empty if it is not loaded.
std::string path_of_torch_cpu() {
  std::string path;
  ::dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* found) {
        const std::string_view name(info->dlpi_name);
        if (name.find("/libtorch_cpu.so") == std::string_view::npos) return 0;
        *static_cast<std::string*>(found) = name;
        return 1;
      },
      &path);
  return path;
}

/// Returns the folder of the program, or of libdiffusers.so if this code is in it.
std::string own_folder() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void*>(&load_torch_cuda), &info) != 0 && info.dli_fname != nullptr) {
    const std::string_view file(info.dli_fname);
    if (file.find("/libdiffusers.so") != std::string_view::npos) return std::string(folder_of(file));
  }
  char path[4096];
  const ssize_t size = ::readlink("/proc/self/exe", path, sizeof(path));
  return size > 0 ? std::string(folder_of({path, static_cast<std::size_t>(size)})) : std::string();
}

/// The files to try, in this order.
std::vector<std::string> candidates() {
  if (const char* given = std::getenv("DIFFUSERS_CUDA_LIBRARY"); given != nullptr && *given != '\0')
    return {given};
  std::vector<std::string> paths;
  for (const std::string& folder :
       {own_folder(), std::string(DIFFUSERS_CUDA_BUILD_FOLDER), std::string(DIFFUSERS_CUDA_INSTALL_FOLDER)})
    if (!folder.empty()) paths.push_back(folder + "/" + kCudaLibrary);
  paths.emplace_back(kCudaLibrary);
  return paths;
}

void* open_cuda_library() {
  const std::string error = load_torch_cuda();
  require(error.empty(), "LibTorch's CUDA library cannot be loaded: {}", error);
  std::string errors;
  for (const std::string& path : candidates()) {
    void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      errors += (errors.empty() ? "" : "; ") + loader_error();
      continue;
    }
    const auto version = reinterpret_cast<const char* (*)()>(::dlsym(library, "diffusers_cuda_version"));
    const std::string found = version != nullptr ? version() : "none";
    require(found == DIFFUSERS_VERSION, "{} is of version {}, expected {}", path, found, DIFFUSERS_VERSION);
    return library;
  }
  fail("{}, the CUDA code of this library, cannot be loaded; DIFFUSERS_CUDA_LIBRARY can give its path: {}",
       kCudaLibrary, errors);
}

}  // namespace

bool has_visible_cuda_driver() {
  const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
  if (visible != nullptr && (*visible == '\0' || std::strcmp(visible, "-1") == 0)) return false;
  return ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != nullptr;
}

std::string load_torch_cuda() {
  std::string path = path_of_torch_cpu();
  const std::size_t name = path.rfind("/libtorch_cpu");
  if (name == std::string::npos) return "libtorch_cpu.so is not loaded";
  path.replace(name, std::strlen("/libtorch_cpu"), "/libtorch_cuda");
  if (::access(path.c_str(), F_OK) != 0) return {};
  return ::dlopen(path.c_str(), RTLD_LAZY | RTLD_GLOBAL) != nullptr ? std::string() : loader_error();
}

void* cuda_function_address(const char* name) {
  static void* const library = open_cuda_library();
  void* address = ::dlsym(library, name);
  require(address != nullptr, "{} does not export {}", kCudaLibrary, name);
  return address;
}

}  // namespace internal
}  // namespace diffusers

/// Runs before `main`, since LibTorch decides at the first use of `at::hasCUDA` whether there is CUDA.
/// Programs that link the static library ask for this symbol.
extern "C" [[gnu::constructor(101)]] void diffusers_load_torch_cuda() {
  if (!diffusers::has_visible_cuda_driver()) return;
  const std::string error = diffusers::load_torch_cuda();
  if (!error.empty())
    std::fprintf(
        stderr,
        "libdiffusers: CUDA devices are not used, because LibTorch's CUDA library cannot be loaded: %s\n",
        error.c_str());
}
