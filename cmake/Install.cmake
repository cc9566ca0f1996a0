# `cmake --install` and what find_package(diffusers) needs.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(DIFFUSERS_CMAKE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/diffusers")
install(TARGETS diffusers EXPORT diffusersTargets FILE_SET HEADERS)
if(TARGET diffusers_cuda)
  install(TARGETS diffusers_cuda LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()
install(EXPORT diffusersTargets NAMESPACE diffusers:: DESTINATION "${DIFFUSERS_CMAKE_DIR}")

# Dependencies that lie where no find_package would look by itself are looked for there as a last resort.
set(DIFFUSERS_RECORDED_TORCH "${Torch_INSTALL_PREFIX}")
set(DIFFUSERS_RECORDED_PREFIXES ${DIFFUSERS_PROVIDED_PREFIXES})
configure_package_config_file(cmake/diffusersConfig.cmake.in "${PROJECT_BINARY_DIR}/diffusersConfig.cmake"
                              INSTALL_DESTINATION "${DIFFUSERS_CMAKE_DIR}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/diffusersConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/diffusersConfig.cmake" "${PROJECT_BINARY_DIR}/diffusersConfigVersion.cmake"
              "${PROJECT_SOURCE_DIR}/cmake/FindTorch.cmake" "${PROJECT_SOURCE_DIR}/cmake/Findutf8proc.cmake"
        DESTINATION "${DIFFUSERS_CMAKE_DIR}")
install(FILES "${PROJECT_SOURCE_DIR}/LICENSE" DESTINATION "${CMAKE_INSTALL_DOCDIR}")
