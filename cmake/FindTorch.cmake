# FindTorch
# ---------
# Finds LibTorch and gives the imported targets `diffusers::torch` and, if it was built for CUDA, `diffusers::torch_cuda`.
#
# `diffusers::torch` leaves out the libraries for CUDA, which libdiffusers loads at run time where there is a driver
# (src/core/cuda_library.h). Code that calls them itself, for example c10::cuda::getCurrentCUDAStream, links
# `diffusers::torch_cuda`.
#
# LibTorch's own TorchConfig.cmake is located but not run: it enables the language CUDA in every project that looks
# for it, fails where the CUDA toolkit is missing or newer than CMake, replaces CMAKE_CUDA_ARCHITECTURES and warns of
# libraries that nobody needs. The headers and shared libraries next to it are all that a program takes.
#
# Input:    Torch_DIR, Torch_ROOT or CMAKE_PREFIX_PATH lead to a folder of LibTorch (or of the Python package `torch`);
#           DIFFUSERS_TORCH_HINTS holds folders to look in when those do not.
# Output:   Torch_FOUND, Torch_VERSION, Torch_INSTALL_PREFIX, Torch_INCLUDE_DIRS, Torch_LIBRARY_DIR,
#           Torch_HAS_CUDA (this LibTorch was built for CUDA), Torch_CUDA_VERSION (for which, where known).

if(Torch_DIR AND NOT EXISTS "${Torch_DIR}/TorchConfig.cmake")
  unset(Torch_DIR CACHE)
  unset(Torch_DIR)
endif()
set(_torch_suffixes share/cmake/Torch lib/cmake/Torch torch/share/cmake/Torch libtorch/share/cmake/Torch Torch)
find_path(Torch_DIR NAMES TorchConfig.cmake PATH_SUFFIXES ${_torch_suffixes}
          DOC "Folder of LibTorch that holds TorchConfig.cmake")
if(NOT Torch_DIR)
  find_path(Torch_DIR NAMES TorchConfig.cmake PATHS ${DIFFUSERS_TORCH_HINTS} PATH_SUFFIXES ${_torch_suffixes}
            NO_DEFAULT_PATH)
endif()
unset(_torch_suffixes)

set(Torch_VERSION "")
set(Torch_HAS_CUDA OFF)
set(Torch_CUDA_VERSION "")
set(_torch_libraries "")
if(Torch_DIR)
  get_filename_component(Torch_INSTALL_PREFIX "${Torch_DIR}/../../.." ABSOLUTE)
  set(Torch_INCLUDE_DIRS "${Torch_INSTALL_PREFIX}/include" "${Torch_INSTALL_PREFIX}/include/torch/csrc/api/include")
  set(Torch_LIBRARY_DIR "${Torch_INSTALL_PREFIX}/lib")
  if(EXISTS "${Torch_DIR}/TorchConfigVersion.cmake")
    file(STRINGS "${Torch_DIR}/TorchConfigVersion.cmake" _torch_line REGEX "^set\\(PACKAGE_VERSION ")
    string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" Torch_VERSION "${_torch_line}")
  endif()
  if(EXISTS "${Torch_INSTALL_PREFIX}/version.py")
    file(STRINGS "${Torch_INSTALL_PREFIX}/version.py" _torch_line REGEX "^cuda")
    if(_torch_line MATCHES "'([0-9]+\\.[0-9]+)")
      set(Torch_CUDA_VERSION "${CMAKE_MATCH_1}")
    endif()
  endif()
  unset(_torch_line)

  foreach(_torch_name IN ITEMS torch torch_cpu c10 torch_cuda c10_cuda)
    unset(_torch_${_torch_name})
    find_library(_torch_${_torch_name} ${_torch_name} PATHS "${Torch_LIBRARY_DIR}" NO_DEFAULT_PATH NO_CACHE)
  endforeach()
  set(Torch_C10_LIBRARY "${_torch_c10}")
  if(_torch_torch_cuda AND _torch_c10_cuda)
    set(Torch_HAS_CUDA ON)
  endif()
  # Only a header and a library that really lie there make a LibTorch.
  if(EXISTS "${Torch_INSTALL_PREFIX}/include/ATen/core/Tensor.h" AND _torch_torch AND _torch_torch_cpu AND _torch_c10)
    set(_torch_libraries "${_torch_torch_cpu}")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  Torch
  REQUIRED_VARS Torch_DIR _torch_libraries
  VERSION_VAR Torch_VERSION
  REASON_FAILURE_MESSAGE
    "libdiffusers needs LibTorch 2.11 or newer as shared libraries. Give its folder with \
-DCMAKE_PREFIX_PATH=/path/to/libtorch, or install the Python package (`pip install torch==2.11.0`) and give its \
folder site-packages/torch.")

if(Torch_FOUND AND NOT TARGET diffusers::torch)
  add_library(diffusers::torch INTERFACE IMPORTED GLOBAL)
  target_include_directories(diffusers::torch SYSTEM INTERFACE ${Torch_INCLUDE_DIRS})

  # What LibTorch's own targets define (USE_DISTRIBUTED and so on), because it changes what its headers declare.
  set(_torch_targets "${Torch_INSTALL_PREFIX}/share/cmake/Caffe2/Caffe2Targets.cmake")
  if(EXISTS "${_torch_targets}")
    file(STRINGS "${_torch_targets}" _torch_lines REGEX "INTERFACE_COMPILE_DEFINITIONS \"[A-Za-z0-9_=;]*USE_DISTRIBUTED")
    if(_torch_lines MATCHES "\"([^\"]*)\"")
      target_compile_definitions(diffusers::torch INTERFACE ${CMAKE_MATCH_1})
    endif()
    unset(_torch_lines)
  endif()
  unset(_torch_targets)

  if(CMAKE_SYSTEM_NAME STREQUAL "Linux")
    file(STRINGS "${Torch_C10_LIBRARY}" _torch_new_abi LIMIT_COUNT 1 REGEX "__cxx11")
    if(NOT _torch_new_abi)
      target_compile_definitions(diffusers::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=0)
    endif()
    unset(_torch_new_abi)
    # LibTorch exports an old copy of libstdc++'s std::filesystem, which crashes in remove_all. The compiler's own
    # libstdc++ has to come before it in the order of loading.
    target_link_options(diffusers::torch INTERFACE "SHELL:-Wl,--no-as-needed -lstdc++ -Wl,--as-needed")
    # Operators register themselves when their library is loaded; a linker that drops unused libraries would drop them.
    target_link_libraries(diffusers::torch INTERFACE
                          "-Wl,--no-as-needed,\"${_torch_libraries}\" -Wl,--as-needed" "${Torch_C10_LIBRARY}")
    # Sources of ours that run in parallel share LibTorch's OpenMP threads; two copies of the runtime would not know of
    # each other's.
    file(GLOB _torch_openmp "${Torch_LIBRARY_DIR}/libgomp*.so*")
    if(_torch_openmp AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
      list(GET _torch_openmp 0 _torch_openmp)
      target_link_libraries(diffusers::torch INTERFACE "${_torch_openmp}")
    else()
      target_link_options(diffusers::torch INTERFACE -fopenmp)
    endif()
    unset(_torch_openmp)
    find_package(Threads QUIET)
    if(TARGET Threads::Threads)
      set_property(TARGET Threads::Threads PROPERTY IMPORTED_GLOBAL ON)
      target_link_libraries(diffusers::torch INTERFACE Threads::Threads)
    endif()
  else()
    target_link_libraries(diffusers::torch INTERFACE ${_torch_libraries} "${Torch_C10_LIBRARY}")
  endif()
endif()
if(Torch_FOUND AND Torch_HAS_CUDA AND NOT TARGET diffusers::torch_cuda)
  add_library(diffusers::torch_cuda INTERFACE IMPORTED GLOBAL)
  target_link_libraries(diffusers::torch_cuda INTERFACE "${_torch_torch_cuda}" "${_torch_c10_cuda}" diffusers::torch)
endif()
unset(_torch_libraries)
mark_as_advanced(Torch_DIR)
