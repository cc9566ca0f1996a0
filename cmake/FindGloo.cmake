# Finds the headers of Gloo. LibTorch has the library inside, without its headers; nothing is linked.
#
#   Gloo_INCLUDE_DIR     folder that holds gloo/context.h
find_path(Gloo_INCLUDE_DIR gloo/context.h HINTS "${Torch_INSTALL_PREFIX}/include")
mark_as_advanced(Gloo_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Gloo REQUIRED_VARS Gloo_INCLUDE_DIR)
