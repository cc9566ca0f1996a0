# As a subproject the library builds only itself and leaves every choice to the project around it.
option(DIFFUSERS_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(DIFFUSERS_BUILD_EXAMPLES "Build the example programs" ${PROJECT_IS_TOP_LEVEL})
option(DIFFUSERS_BUILD_FUZZERS "Build the fuzzers, which takes a clang++ with libFuzzer" OFF)
option(DIFFUSERS_INSTALL "Make the install rules and the package config" ${PROJECT_IS_TOP_LEVEL})
option(DIFFUSERS_INSTALL_PROGRAMS "Install the example programs, which takes DIFFUSERS_BUILD_EXAMPLES"
       ${PROJECT_IS_TOP_LEVEL})
option(DIFFUSERS_UNITY "Compile several sources of a folder as one (faster whole builds)" OFF)
set(DIFFUSERS_UNITY_BATCH_SIZE 8 CACHE STRING "How many sources DIFFUSERS_UNITY compiles as one; 0: a whole folder")
option(DIFFUSERS_CCACHE "Compile through ccache where it is found" ${PROJECT_IS_TOP_LEVEL})
option(DIFFUSERS_WARNINGS_AS_ERRORS "Treat compiler warnings as errors" OFF)
set(DIFFUSERS_SANITIZE "" CACHE STRING "Sanitizers to build with, as -fsanitize= takes them (address,undefined)")

if(PROJECT_IS_TOP_LEVEL)
  if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
  endif()
  set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
endif()

# These hold in this folder and below it only.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)

if(DIFFUSERS_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(DIFFUSERS_CCACHE_PROGRAM ccache)
  mark_as_advanced(DIFFUSERS_CCACHE_PROGRAM)
  if(DIFFUSERS_CCACHE_PROGRAM)
    # Without this sloppiness ccache refuses sources that use a precompiled header; depend mode spares it a run of the
    # preprocessor, which costs seconds with LibTorch's headers.
    set(CMAKE_CXX_COMPILER_LAUNCHER "${CMAKE_COMMAND}" -E env CCACHE_SLOPPINESS=pch_defines,time_macros
                                    CCACHE_DEPEND=1 "${DIFFUSERS_CCACHE_PROGRAM}")
  endif()
endif()
