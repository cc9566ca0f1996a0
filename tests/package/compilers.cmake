# Checks which compilers CMake takes: cmake -DSOURCE=... -P compilers.cmake
cmake_minimum_required(VERSION 3.25)

# expect(SYSTEM ID VERSION MESSAGE): an empty message stands for a compiler that is taken.
function(expect system id version message)
  execute_process(
    COMMAND "${CMAKE_COMMAND}" -DCMAKE_SYSTEM_NAME=${system} -DCMAKE_CXX_COMPILER=the-compiler -DCMAKE_CXX_COMPILER_ID=${id}
            -DCMAKE_CXX_COMPILER_VERSION=${version} -P "${SOURCE}/cmake/Compilers.cmake"
    RESULT_VARIABLE status ERROR_VARIABLE errors)
  string(REGEX REPLACE "[ \n]+" " " errors "${errors}")
  if(message STREQUAL "")
    if(NOT status EQUAL 0)
      message(SEND_ERROR "${system} ${id} ${version} is refused: ${errors}")
    endif()
  elseif(status EQUAL 0)
    message(SEND_ERROR "${system} ${id} ${version} is taken")
  elseif(NOT errors MATCHES "${message}")
    message(SEND_ERROR "${system} ${id} ${version}: \"${message}\" is not in \"${errors}\"")
  endif()
endfunction()

expect(Linux GNU 12.2.0 "")
expect(Linux Clang 14.0.6 "")
expect(Linux GNU 11.3.0 "needs GNU 12 or newer.*11.3.0")
expect(Linux Clang 13.0.0 "needs Clang 14 or newer.*13.0.0")
expect(Linux Intel 2021.1 "g\\+\\+ 12 or clang\\+\\+ 14.*the-compiler is Intel")
expect(Windows MSVC 19.3 "supports Linux.*Windows")
