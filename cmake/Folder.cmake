# How the folders of src/ and tests/ become targets. The functions here are all that a folder's CMakeLists.txt calls.

# In the order in which they may include each other (tests/layers checks it).
set(all_folders core io ops schedulers models data text training pipelines)
set(DIFFUSERS_FOLDERS "${all_folders}"
    CACHE STRING "Folders that the library is made of; core,io,schedulers gives the schedulers alone")
string(REPLACE "," ";" DIFFUSERS_FOLDERS "${DIFFUSERS_FOLDERS}")
foreach(folder IN LISTS DIFFUSERS_FOLDERS)
  if(NOT folder IN_LIST all_folders)
    message(FATAL_ERROR "DIFFUSERS_FOLDERS names \"${folder}\", expected some of: ${all_folders}")
  endif()
endforeach()

# What every source of ours is compiled with; never installed.
add_library(diffusers_options INTERFACE)
target_compile_features(diffusers_options INTERFACE cxx_std_20)
target_include_directories(diffusers_options INTERFACE "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
# -fPIC by hand: POSITION_INDEPENDENT_CODE would give executables -fPIE, and GCC then drops the precompiled header.
target_compile_options(
  diffusers_options INTERFACE
  $<$<COMPILE_LANG_AND_ID:CXX,GNU,Clang,AppleClang>:-Wall -Wextra -fPIC>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Winvalid-pch -fpch-preprocess>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-fPIC>)
if(DIFFUSERS_WARNINGS_AS_ERRORS)
  target_compile_options(diffusers_options INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
target_link_libraries(diffusers_options INTERFACE diffusers::torch diffusers_fmt nlohmann_json::nlohmann_json
                                                  ZLIB::ZLIB PNG::PNG JPEG::JPEG utf8proc::utf8proc
                                                  LibArchive::LibArchive ${CMAKE_DL_LIBS})
if(DIFFUSERS_WITH_CUDA)
  target_compile_definitions(diffusers_options INTERFACE DIFFUSERS_WITH_CUDA=1)
endif()
if(DIFFUSERS_SANITIZE)
  # LibTorch is not instrumented: vptr checks would follow its objects and find no type information.
  target_compile_options(diffusers_options INTERFACE -fsanitize=${DIFFUSERS_SANITIZE} -fno-sanitize=vptr
                                                     -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(diffusers_options INTERFACE -fsanitize=${DIFFUSERS_SANITIZE})
endif()

# Two precompiled headers, each made once and reused. GCC pays for the size of a precompiled header in every translation
# unit that loads it, so the folders that need tensors only do not get the modules (measured on a scheduler: 13 s of
# compiling with the small one, 33 s with all of torch/torch.h).
set(DIFFUSERS_LIGHT_FOLDERS core io schedulers data)
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/pch.cpp" CONTENT "namespace diffusers {}\n")
foreach(pch IN ITEMS diffusers_pch_light diffusers_pch)
  add_library(${pch} OBJECT "${PROJECT_BINARY_DIR}/pch.cpp")
  target_link_libraries(${pch} PRIVATE diffusers_options)
  target_precompile_headers(${pch} PRIVATE <ATen/ATen.h> <fmt/format.h> <fmt/ranges.h> <nlohmann/json.hpp>)
endforeach()
target_precompile_headers(
  diffusers_pch
  PRIVATE
  <torch/csrc/autograd/custom_function.h>
  <torch/nn/cloneable.h>
  <torch/nn/modules/container/modulelist.h>
  <torch/nn/modules/conv.h>
  <torch/nn/modules/dropout.h>
  <torch/nn/modules/embedding.h>
  <torch/nn/modules/linear.h>
  <torch/nn/modules/normalization.h>)

# Unity batches and the precompiled header for a target of ours that compiles against the folders named.
function(diffusers_configure_target target)
  set(pch diffusers_pch_light)
  foreach(folder IN LISTS ARGN)
    if(NOT folder IN_LIST DIFFUSERS_LIGHT_FOLDERS)
      set(pch diffusers_pch)
    endif()
  endforeach()
  target_precompile_headers(${target} REUSE_FROM ${pch})
  if(DIFFUSERS_UNITY)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${DIFFUSERS_UNITY_BATCH_SIZE})
  endif()
endfunction()

# diffusers_add_folder(NAME SOURCE...): the object library diffusers_NAME.
function(diffusers_add_folder name)
  add_library(diffusers_${name} OBJECT ${ARGN})
  target_link_libraries(diffusers_${name} PUBLIC diffusers_options)
  diffusers_configure_target(diffusers_${name} ${name})
endfunction()

# diffusers_hide_private_symbols(TARGET): a shared library exports no private code.
function(diffusers_hide_private_symbols target)
  get_target_property(type ${target} TYPE)
  if(NOT type MATCHES "^(SHARED|MODULE)_LIBRARY$" OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
    return()
  endif()
  set(script "${PROJECT_SOURCE_DIR}/cmake/private_symbols.map")
  target_link_options(${target} PRIVATE "LINKER:--version-script=${script}")
  set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS "${script}")
endfunction()

# diffusers_take_folders(TARGET): makes a library of all folders together.
function(diffusers_take_folders target)
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/include/diffusers/*.h")
  foreach(folder IN LISTS DIFFUSERS_FOLDERS)
    if(TARGET diffusers_${folder})
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:diffusers_${folder}>)
    endif()
  endforeach()
  target_sources(${target} PUBLIC FILE_SET HEADERS BASE_DIRS "${PROJECT_SOURCE_DIR}/include" FILES ${headers})
  target_compile_features(${target} PUBLIC cxx_std_20)
  target_link_libraries(${target} PUBLIC diffusers::torch PRIVATE ZLIB::ZLIB PNG::PNG JPEG::JPEG utf8proc::utf8proc
                                                             LibArchive::LibArchive ${CMAKE_DL_LIBS})
  if(TARGET diffusers_cuda)
    add_dependencies(${target} diffusers_cuda)
  endif()
  get_target_property(type ${target} TYPE)
  if(type STREQUAL "STATIC_LIBRARY")
    # It runs before main; nothing refers to it.
    target_link_options(${target} INTERFACE "LINKER:--undefined=diffusers_load_torch_cuda")
  endif()
  if(DIFFUSERS_SANITIZE)
    target_link_options(${target} PUBLIC -fsanitize=${DIFFUSERS_SANITIZE})
  endif()
  set_target_properties(${target} PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                                             INSTALL_RPATH_USE_LINK_PATH ON)
  diffusers_hide_private_symbols(${target})
endfunction()

# diffusers_add_library(): the library that a program links and that is installed.
function(diffusers_add_library)
  add_library(diffusers)
  add_library(diffusers::diffusers ALIAS diffusers)
  diffusers_take_folders(diffusers)
endfunction()

# diffusers_add_tests(NAME FOLDERS folder... SOURCES file...): one executable that sees only the folders named.
function(diffusers_add_tests name)
  cmake_parse_arguments(arg "" "" "FOLDERS;SOURCES" ${ARGN})
  if(NOT arg_SOURCES)
    return()
  endif()
  add_executable(test_${name} ${arg_SOURCES})
  foreach(folder IN LISTS arg_FOLDERS)
    target_link_libraries(test_${name} PRIVATE diffusers_${folder})
  endforeach()
  target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_definitions(test_${name} PRIVATE DIFFUSERS_TEST_GOLDEN="${PROJECT_SOURCE_DIR}/tests/golden")
  target_link_libraries(test_${name} PRIVATE diffusers_test_main)
  if(TARGET diffusers_cuda)
    add_dependencies(test_${name} diffusers_cuda)
  endif()
  diffusers_configure_target(test_${name} ${arg_FOLDERS})
  # One process for all of a folder's tests: loading LibTorch takes half a second each time.
  add_test(NAME ${name} COMMAND test_${name} --gtest_brief=1)
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 900 PROCESSORS 2)
  if(DIFFUSERS_SANITIZE)
    set(suppressions "${PROJECT_SOURCE_DIR}/cmake/sanitizers")
    set_tests_properties(
      ${name}
      PROPERTIES TIMEOUT 3600
                 ENVIRONMENT "ASAN_OPTIONS=detect_stack_use_after_return=1:strict_init_order=1;\
LSAN_OPTIONS=suppressions=${suppressions}/lsan.supp:print_suppressions=0;\
UBSAN_OPTIONS=print_stacktrace=1;TSAN_OPTIONS=suppressions=${suppressions}/tsan.supp")
  endif()
endfunction()

# diffusers_add_cuda_tests(NAME FILTER): the tests of test_NAME that need a CUDA device, as the test cuda.NAME with the
# label cuda. ctest reports it as skipped where there is no device. benchmarks/device_check.sh runs the same list from
# cuda_tests.txt of the build folder.
function(diffusers_add_cuda_tests name filter)
  if(NOT DIFFUSERS_WITH_CUDA)
    return()
  endif()
  add_test(NAME cuda.${name} COMMAND test_${name} --gtest_brief=1 "--gtest_filter=${filter}")
  set_tests_properties(cuda.${name} PROPERTIES LABELS cuda TIMEOUT 600 SKIP_RETURN_CODE 77
                                               ENVIRONMENT "DIFFUSERS_SKIP_CODE=77")
  set_property(GLOBAL APPEND_STRING PROPERTY DIFFUSERS_CUDA_TESTS "tests/${name}/test_${name} ${filter}\n")
endfunction()

# diffusers_add_kernel_modes(NAME FILTER): runs tests of test_NAME once more without the library's kernels, and once with
# Winograd's convolution for every shape that it supports. The filters select a part of the comparisons with Python, since
# all of them take minutes.
function(diffusers_add_kernel_modes name filter)
  if(DIFFUSERS_SANITIZE)
    return()
  endif()
  add_test(NAME ${name}.kernels_off COMMAND test_${name} --gtest_brief=1 "--gtest_filter=${filter}")
  add_test(NAME ${name}.winograd_forced COMMAND test_${name} --gtest_brief=1 "--gtest_filter=${filter}")
  # A filter that fits no test any more must not pass.
  set_tests_properties(
    ${name}.kernels_off ${name}.winograd_forced
    PROPERTIES LABELS unit TIMEOUT 900 PROCESSORS 2 FAIL_REGULAR_EXPRESSION " 0 tests from")
  set_tests_properties(${name}.kernels_off PROPERTIES ENVIRONMENT DIFFUSERS_FUSED=0)
  set_tests_properties(${name}.winograd_forced PROPERTIES ENVIRONMENT DIFFUSERS_WINOGRAD=force)
endfunction()
