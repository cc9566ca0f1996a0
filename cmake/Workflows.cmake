# Targets that do a whole job.

# mnist, mnist_conditional: train on MNIST and draw samples.png (`cmake --workflow --preset mnist`), the second one with
# labels and classifier-free guidance.
set(DIFFUSERS_MNIST_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist" CACHE PATH "Where the target mnist writes")
set(DIFFUSERS_MNIST_CONDITIONAL_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_conditional"
    CACHE PATH "Where the target mnist_conditional writes")
function(diffusers_add_training name output)
  add_custom_target(
    ${name}
    COMMAND train_mnist ${ARGN} --output_dir "${output}" --overwrite_output_dir
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training on MNIST; pictures go to ${output}"
    USES_TERMINAL VERBATIM)
endfunction()
if(TARGET train_mnist)
  diffusers_add_training(mnist "${DIFFUSERS_MNIST_OUTPUT}")
  diffusers_add_training(mnist_conditional "${DIFFUSERS_MNIST_CONDITIONAL_OUTPUT}" --class_conditional)
endif()

# format: rewrites the sources in the style that the test `style` asks for.
find_program(DIFFUSERS_CLANG_FORMAT clang-format)
find_program(DIFFUSERS_CLANG_TIDY clang-tidy)
mark_as_advanced(DIFFUSERS_CLANG_FORMAT DIFFUSERS_CLANG_TIDY)
find_program(DIFFUSERS_PYTHON NAMES python3 python)
mark_as_advanced(DIFFUSERS_PYTHON)
if(DIFFUSERS_PYTHON)
  add_custom_target(
    format
    COMMAND "${DIFFUSERS_PYTHON}" "${PROJECT_SOURCE_DIR}/cmake/check_style.py" --fix
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}" VERBATIM)
  # tidy: clang-tidy over the library, the tests and the examples.
  add_custom_target(
    tidy
    COMMAND "${DIFFUSERS_PYTHON}" "${PROJECT_SOURCE_DIR}/cmake/run_clang_tidy.py" --build "${PROJECT_BINARY_DIR}"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    USES_TERMINAL VERBATIM)
endif()

# docs: the API reference as HTML, in docs/html of the build folder. A symbol without documentation is an error.
find_program(DIFFUSERS_DOXYGEN doxygen)
mark_as_advanced(DIFFUSERS_DOXYGEN)
configure_file("${CMAKE_CURRENT_LIST_DIR}/Doxyfile.in" "${PROJECT_BINARY_DIR}/Doxyfile" @ONLY)
if(DIFFUSERS_DOXYGEN)
  add_custom_target(
    docs
    COMMAND "${CMAKE_COMMAND}" -E make_directory "${PROJECT_BINARY_DIR}/docs"
    COMMAND "${DIFFUSERS_DOXYGEN}" "${PROJECT_BINARY_DIR}/Doxyfile"
    COMMAND "${CMAKE_COMMAND}" -E echo "The API reference: ${PROJECT_BINARY_DIR}/docs/html/index.html"
    VERBATIM)
else()
  add_custom_target(
    docs
    COMMAND "${CMAKE_COMMAND}" -E echo "Doxygen is missing (Debian: apt-get install doxygen)"
    COMMAND "${CMAKE_COMMAND}" -E false
    VERBATIM)
endif()
