# What every folder of src/ is compiled with.
add_library(diffusers_options INTERFACE)
target_compile_features(diffusers_options INTERFACE cxx_std_20)
target_include_directories(diffusers_options INTERFACE ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_include_directories(diffusers_options SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# -fPIC by hand: POSITION_INDEPENDENT_CODE would give executables -fPIE, and GCC then drops the precompiled header.
target_compile_options(diffusers_options INTERFACE -Wall -Wextra -Winvalid-pch -fPIC)
# The compiler's own libstdc++ must come before Torch's libraries, which export an old std::filesystem.
target_link_options(diffusers_options INTERFACE -Wl,--no-as-needed -lstdc++ -Wl,--as-needed)
target_link_libraries(diffusers_options INTERFACE ${TORCH_LIBRARIES} fmt::fmt-header-only nlohmann_json::nlohmann_json
                      ZLIB::ZLIB PNG::PNG JPEG::JPEG)

set(DIFFUSERS_FOLDERS core io ops schedulers models data training pipelines)

# The precompiled header, made once and reused by every folder and test.
file(WRITE ${PROJECT_BINARY_DIR}/pch.cpp.in "namespace diffusers {}\n")
configure_file(${PROJECT_BINARY_DIR}/pch.cpp.in ${PROJECT_BINARY_DIR}/pch.cpp COPYONLY)
add_library(diffusers_pch OBJECT ${PROJECT_BINARY_DIR}/pch.cpp)
target_link_libraries(diffusers_pch PRIVATE diffusers_options)
target_precompile_headers(diffusers_pch PRIVATE <torch/torch.h>)

# diffusers_add_folder(NAME SOURCE...): the object library diffusers_NAME.
function(diffusers_add_folder name)
  add_library(diffusers_${name} OBJECT ${ARGN})
  target_link_libraries(diffusers_${name} PUBLIC diffusers_options)
  target_precompile_headers(diffusers_${name} REUSE_FROM diffusers_pch)
endfunction()

function(diffusers_add_library)
  add_library(diffusers STATIC)
  foreach(folder IN LISTS DIFFUSERS_FOLDERS)
    if(TARGET diffusers_${folder})
      target_sources(diffusers PRIVATE $<TARGET_OBJECTS:diffusers_${folder}>)
    endif()
  endforeach()
  target_link_libraries(diffusers PUBLIC diffusers_options)
  add_library(diffusers::diffusers ALIAS diffusers)
endfunction()

# diffusers_add_tests(NAME FOLDERS folder... SOURCES file...): one executable that sees only the folders named.
function(diffusers_add_tests name)
  cmake_parse_arguments(arg "" "" "FOLDERS;SOURCES" ${ARGN})
  add_executable(test_${name} ${arg_SOURCES})
  foreach(folder IN LISTS arg_FOLDERS)
    target_link_libraries(test_${name} PRIVATE diffusers_${folder})
  endforeach()
  target_include_directories(test_${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_compile_definitions(test_${name} PRIVATE DIFFUSERS_TEST_GOLDEN="${PROJECT_SOURCE_DIR}/tests/golden")
  target_link_libraries(test_${name} PRIVATE GTest::gtest_main)
  target_precompile_headers(test_${name} REUSE_FROM diffusers_pch)
  gtest_discover_tests(test_${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60)
endfunction()
