# Finds utf8proc: the CMake package of its own that newer versions install, else the header and the library.
#
#   utf8proc::utf8proc   imported target
#   utf8proc_VERSION     where the header tells it
find_package(utf8proc CONFIG QUIET BYPASS_PROVIDER)
if(utf8proc_FOUND AND TARGET utf8proc::utf8proc)
  return()
endif()

find_path(utf8proc_INCLUDE_DIR utf8proc.h)
find_library(utf8proc_LIBRARY NAMES utf8proc utf8proc_static)
mark_as_advanced(utf8proc_INCLUDE_DIR utf8proc_LIBRARY)
set(utf8proc_VERSION "")
if(utf8proc_INCLUDE_DIR)
  file(STRINGS "${utf8proc_INCLUDE_DIR}/utf8proc.h" _utf8proc_lines REGEX "^#define UTF8PROC_VERSION_")
  foreach(_utf8proc_part IN ITEMS MAJOR MINOR PATCH)
    if(_utf8proc_lines MATCHES "UTF8PROC_VERSION_${_utf8proc_part} +([0-9]+)")
      string(APPEND utf8proc_VERSION ".${CMAKE_MATCH_1}")
    endif()
  endforeach()
  string(REGEX REPLACE "^\\." "" utf8proc_VERSION "${utf8proc_VERSION}")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(utf8proc REQUIRED_VARS utf8proc_LIBRARY utf8proc_INCLUDE_DIR
                                           VERSION_VAR utf8proc_VERSION)
if(utf8proc_FOUND AND NOT TARGET utf8proc::utf8proc)
  add_library(utf8proc::utf8proc UNKNOWN IMPORTED GLOBAL)
  set_target_properties(
    utf8proc::utf8proc PROPERTIES IMPORTED_LOCATION "${utf8proc_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES
                                                                          "${utf8proc_INCLUDE_DIR}")
endif()
