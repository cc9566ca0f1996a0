# Builds examples/ as a separate project against the installed library, and runs installed and built programs:
#   cmake -DBUILD=... -DSOURCE=... -DWORK=... -DGENERATOR=... -DCOMPILER=... -DPREFIX_PATH=... -P examples.cmake
#
# Only the small programs are built here. The build tree compiles all programs without src/, too.
cmake_minimum_required(VERSION 3.25)
include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")

file(REMOVE_RECURSE "${WORK}")
run("Installing" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
run("Running the installed program" "${WORK}/prefix/bin/sample" --help)
set(prefixes "${WORK}/prefix" ${PREFIX_PATH})
list(JOIN prefixes ":" prefixes)
run("Configuring examples/" "${CMAKE_COMMAND}" -E env "CMAKE_PREFIX_PATH=${prefixes}" "${CMAKE_COMMAND}"
    -S "${SOURCE}/examples" -B "${WORK}/build" -G "${GENERATOR}" "-DCMAKE_CXX_COMPILER=${COMPILER}"
    -DCMAKE_BUILD_TYPE=Debug "-DCMAKE_CXX_FLAGS_DEBUG=-O0")
run("Building the small programs" "${CMAKE_COMMAND}" --build "${WORK}/build" --parallel 2 --target sample reconstruct_ema)
foreach(program IN ITEMS sample reconstruct_ema)
  run("Running ${program}" "${WORK}/build/${program}" --help)
endforeach()
file(REMOVE_RECURSE "${WORK}")
