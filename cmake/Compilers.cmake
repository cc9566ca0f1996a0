# Compilers whose C++20 the library needs. Older and other ones are refused here, with what to do, and not in a header.
set(_minimum_GNU 12)
set(_minimum_Clang 14)
if(NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  message(FATAL_ERROR "libdiffusers supports Linux, and this is ${CMAKE_SYSTEM_NAME}")
endif()
if(NOT DEFINED _minimum_${CMAKE_CXX_COMPILER_ID})
  message(FATAL_ERROR "libdiffusers builds with g++ ${_minimum_GNU} or clang++ ${_minimum_Clang} and newer, and "
                      "${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_ID}: choose one with -DCMAKE_CXX_COMPILER=g++")
endif()
if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS _minimum_${CMAKE_CXX_COMPILER_ID})
  message(FATAL_ERROR "libdiffusers needs ${CMAKE_CXX_COMPILER_ID} ${_minimum_${CMAKE_CXX_COMPILER_ID}} or newer, and "
                      "${CMAKE_CXX_COMPILER} is ${CMAKE_CXX_COMPILER_VERSION}")
endif()
