# Writes the version script that hides private symbols in a shared library: cmake -DROOT=... -DOUTPUT=... -P private_symbols.cmake
#
# A class, function or namespace that a header of src/ declares is private unless its name occurs in a public header. Names that
# no header declares stay exported; a program cannot use them. The libraries whose headers are private are hidden too.
cmake_minimum_required(VERSION 3.25)

# Reads a header without its comments.
function(read_code header result)
  file(READ "${header}" text)
  string(REGEX REPLACE "//[^\n]*" "" text "${text}")
  set(${result} "${text}" PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE public_headers "${ROOT}/include/diffusers/*.h")
set(public_names)
set(public_namespaces)
foreach(header IN LISTS public_headers)
  read_code("${header}" text)
  string(REGEX MATCHALL "[A-Za-z_][A-Za-z_0-9]*" names "${text}")
  list(APPEND public_names ${names})
  list(REMOVE_DUPLICATES public_names)
  string(REGEX MATCHALL "namespace [a-z_:]+" namespaces "${text}")
  list(APPEND public_namespaces ${namespaces})
endforeach()
list(TRANSFORM public_namespaces REPLACE "namespace (diffusers::)?" "")

file(GLOB_RECURSE private_headers "${ROOT}/src/*.h")
set(private_names)
foreach(header IN LISTS private_headers)
  read_code("${header}" text)
  # Declarations begin in the first column: clang-format indents what is inside of others.
  foreach(pattern IN ITEMS "\n(class|struct|enum class) ([A-Za-z_0-9]+)" "\n(TORCH_MODULE)\\(([A-Za-z_0-9]+)"
                           "\n[A-Za-z_][^\n(;={}]*([ *&])([A-Za-z_0-9]+)\\(")
    string(REGEX MATCHALL "${pattern}" declarations "${text}")
    foreach(declaration IN LISTS declarations)
      string(REGEX REPLACE "${pattern}" "\\2" name "${declaration}")
      if(NOT name IN_LIST public_names)
        list(APPEND private_names "${name}")
      endif()
    endforeach()
  endforeach()
  string(REGEX MATCHALL "\nnamespace [a-z_:]+" namespaces "${text}")
  foreach(namespace IN LISTS namespaces)
    string(REGEX REPLACE "\nnamespace (diffusers::)?" "" namespace "${namespace}")
    if(NOT namespace IN_LIST public_namespaces)
      list(APPEND private_names "${namespace}")
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES private_names)
list(SORT private_names)

# Patterns of demangled names.
set(patterns "      *nlohmann::*;\n      *fmt::v[0-9]*;\n")
foreach(name IN LISTS private_names)
  string(APPEND patterns "      *diffusers::${name};\n      *diffusers::${name}[!0-9A-Za-z_]*;\n")
endforeach()
file(WRITE "${OUTPUT}" "{\n  local:\n    extern \"C++\" {\n${patterns}    };\n};\n")
