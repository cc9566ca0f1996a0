# Everything is looked for with find_package, so that the system, vcpkg, Conan, CMAKE_PREFIX_PATH and our own
# dependency provider (cmake/DependencyProvider.cmake, used by the presets) can all give it.
list(PREPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")
# A project that adds this one as a subfolder has to see what the library links.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON)

find_package(Torch 2.11 MODULE REQUIRED)
message(STATUS "LibTorch ${Torch_VERSION} (CUDA: ${Torch_HAS_CUDA}): ${Torch_INSTALL_PREFIX}")
find_package(ZLIB REQUIRED)
find_package(PNG REQUIRED)
find_package(JPEG REQUIRED)
find_package(utf8proc MODULE REQUIRED)
find_package(LibArchive REQUIRED)
find_package(nlohmann_json REQUIRED)

# LibTorch brings fmt among its headers, and those come first on the include path whatever else is installed.
if(EXISTS "${Torch_INSTALL_PREFIX}/include/fmt/format.h")
  add_library(diffusers_fmt INTERFACE)
  target_compile_definitions(diffusers_fmt INTERFACE FMT_HEADER_ONLY=1)
else()
  find_package(fmt REQUIRED)
  add_library(diffusers_fmt INTERFACE)
  target_link_libraries(diffusers_fmt INTERFACE fmt::fmt-header-only)
endif()

include("${CMAKE_CURRENT_LIST_DIR}/Cuda.cmake")
include("${CMAKE_CURRENT_LIST_DIR}/Distributed.cmake")
