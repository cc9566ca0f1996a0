# Builds and runs tests/consumer against libdiffusers: cmake -DSTYLE=... -DBUILD=... -DSOURCE=... -DWORK=... -P run.cmake
#
# find_package      installs the build tree BUILD to a new prefix, and passes only that prefix to the consumer
# add_subdirectory  has the consumer compile the library's folders that it needs, unoptimised and in few, large units
cmake_minimum_required(VERSION 3.25)

include("${CMAKE_CURRENT_LIST_DIR}/steps.cmake")

# Writes README's program to `path`, shortened from an epoch to two steps.
function(write_readme_program path)
  file(READ "${SOURCE}/README.md" text)
  string(FIND "${text}" "#include <diffusers/diffusers.h>" start)
  string(SUBSTRING "${text}" ${start} -1 text)
  string(FIND "${text}" "```" end)
  string(SUBSTRING "${text}" 0 ${end} text)
  foreach(change IN ITEMS "num_epochs = 1|max_train_steps = 2" "train_batch_size = 64|train_batch_size = 4"
                          "{.batch_size = 64}|{.batch_size = 4, .num_inference_steps = 2}"
                          "examples/data/mnist|${SOURCE}/examples/data/mnist")
    string(REGEX MATCH "^(.*)\\|(.*)$" matched "${change}")
    set(from "${CMAKE_MATCH_1}")
    set(to "${CMAKE_MATCH_2}")
    string(FIND "${text}" "${from}" found)
    if(found EQUAL -1)
      message(FATAL_ERROR "README's program no longer says `${from}`; tests/package/run.cmake shortens that")
    endif()
    string(REPLACE "${from}" "${to}" text "${text}")
  endforeach()
  file(WRITE "${path}" "${text}")
endfunction()

file(REMOVE_RECURSE "${WORK}")
set(consumer "${WORK}/build")
file(MAKE_DIRECTORY "${consumer}")
set(configure "${CMAKE_COMMAND}" -S "${SOURCE}/tests/consumer" -B "${consumer}" -G "${GENERATOR}"
              "-DCMAKE_CXX_COMPILER=${COMPILER}")
set(programs schedule)
if(STYLE STREQUAL "find_package")
  run("Installing" "${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
  file(GLOB_RECURSE private "${WORK}/prefix/*.cpp" "${WORK}/prefix/include/*/json.h" "${WORK}/prefix/include/*/format.h")
  if(private)
    message(FATAL_ERROR "Private files are installed: ${private}")
  endif()
  write_readme_program("${WORK}/readme.cpp")
  run("Configuring the consumer" ${configure} "-DCMAKE_PREFIX_PATH=${WORK}/prefix"
      "-DREADME_PROGRAM=${WORK}/readme.cpp")
  list(APPEND programs custom_model custom_scheduler readme)
else()
  # The schedulers are sufficient here, since the other style tests the complete library.
  run("Configuring the consumer" ${configure} "-DDIFFUSERS_SOURCE_DIR=${SOURCE}" "-DCMAKE_PREFIX_PATH=${PREFIX_PATH}"
      "-DTorch_DIR=${TORCH_DIR}" -DDIFFUSERS_UNITY=ON -DDIFFUSERS_UNITY_BATCH_SIZE=0 -DDIFFUSERS_WITH_CUDA=OFF -DDIFFUSERS_CCACHE=ON
      -DDIFFUSERS_FOLDERS=core,io,schedulers)
endif()
run("Building the consumer" "${CMAKE_COMMAND}" --build "${consumer}" --parallel 2)
foreach(program IN LISTS programs)
  run("Running ${program}" "${CMAKE_COMMAND}" -E chdir "${WORK}" "${consumer}/${program}")
  # Nothing in the program refers to this function. It loads LibTorch's CUDA library where there is a driver.
  file(STRINGS "${consumer}/${program}" loader REGEX "diffusers_load_torch_cuda" LIMIT_COUNT 1)
  if(NOT loader)
    message(FATAL_ERROR "${program} was linked without diffusers_load_torch_cuda, and would not find a CUDA device")
  endif()
endforeach()
file(REMOVE_RECURSE "${WORK}")
