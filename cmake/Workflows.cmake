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

# run_mnist_text_to_image: trains a Stable Diffusion folder on MNIST. The other targets start with this folder; if it is
# missing, it is trained first. run_mnist_controlnet trains a ControlNet, run_mnist_style_lora a LoRA adapter,
# run_mnist_new_word a textual inversion, and run_mnist_dreambooth two UNets, without and with prior preservation.
set(DIFFUSERS_MNIST_TEXT_TO_IMAGE_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_text_to_image"
    CACHE PATH "Where the target run_mnist_text_to_image writes")
set(DIFFUSERS_MNIST_CONTROLNET_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_controlnet"
    CACHE PATH "Where the target run_mnist_controlnet writes")
set(DIFFUSERS_MNIST_STYLE_LORA_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_style_lora"
    CACHE PATH "Where the target run_mnist_style_lora writes")
set(DIFFUSERS_MNIST_NEW_WORD_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_new_word"
    CACHE PATH "Where the target run_mnist_new_word writes")
set(DIFFUSERS_MNIST_DREAMBOOTH_OUTPUT "${PROJECT_SOURCE_DIR}/out/mnist_dreambooth"
    CACHE PATH "Where the target run_mnist_dreambooth writes")
if(TARGET mnist_text_to_image)
  set(output "${DIFFUSERS_MNIST_TEXT_TO_IMAGE_OUTPUT}")
  set(command mnist_text_to_image --output_dir "${output}" --overwrite_output_dir)
  add_custom_target(
    run_mnist_text_to_image
    COMMAND ${command}
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training text to image on MNIST; the pipeline folder is ${output}"
    USES_TERMINAL VERBATIM)
  # The command runs only if the file is missing.
  add_custom_command(
    OUTPUT "${output}/model_index.json"
    COMMAND ${command}
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training text to image on MNIST; the pipeline folder is ${output}"
    USES_TERMINAL VERBATIM)
  set(folder --pretrained_model_name_or_path "${output}")
  add_custom_target(
    run_mnist_controlnet
    COMMAND mnist_controlnet ${folder} --output_dir "${DIFFUSERS_MNIST_CONTROLNET_OUTPUT}" --overwrite_output_dir
    DEPENDS "${output}/model_index.json"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training a ControlNet on MNIST; it is written to ${DIFFUSERS_MNIST_CONTROLNET_OUTPUT}"
    USES_TERMINAL VERBATIM)
  add_custom_target(
    run_mnist_style_lora
    COMMAND mnist_style_lora ${folder} --output_dir "${DIFFUSERS_MNIST_STYLE_LORA_OUTPUT}" --overwrite_output_dir
    DEPENDS "${output}/model_index.json"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training a LoRA adapter on 20 images; it is written to ${DIFFUSERS_MNIST_STYLE_LORA_OUTPUT}"
    USES_TERMINAL VERBATIM)
  add_custom_target(
    run_mnist_new_word
    COMMAND mnist_new_word ${folder} --output_dir "${DIFFUSERS_MNIST_NEW_WORD_OUTPUT}" --overwrite_output_dir
    DEPENDS "${output}/model_index.json"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "Training a new word on 20 images; it is written to ${DIFFUSERS_MNIST_NEW_WORD_OUTPUT}"
    USES_TERMINAL VERBATIM)
  set(dreambooth mnist_dreambooth ${folder} --overwrite_output_dir)
  add_custom_target(
    run_mnist_dreambooth
    COMMAND ${dreambooth} --output_dir "${DIFFUSERS_MNIST_DREAMBOOTH_OUTPUT}/without_prior"
    COMMAND ${dreambooth} --with_prior_preservation --output_dir "${DIFFUSERS_MNIST_DREAMBOOTH_OUTPUT}/with_prior"
    DEPENDS "${output}/model_index.json"
    WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}"
    COMMENT "DreamBooth on 5 images, without and with prior preservation, in ${DIFFUSERS_MNIST_DREAMBOOTH_OUTPUT}"
    USES_TERMINAL VERBATIM)
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
