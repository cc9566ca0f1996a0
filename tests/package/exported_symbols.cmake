# Checks the exported symbols of a shared libdiffusers: cmake -DNM=... -DLIBRARY=... -P exported_symbols.cmake
cmake_minimum_required(VERSION 3.25)

execute_process(COMMAND "${NM}" -DC --defined-only "${LIBRARY}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "\n" lines "${symbols}")
list(LENGTH lines count)
message(STATUS "${count} symbols are exported")

foreach(public IN ITEMS "diffusers::load_safetensors(" "diffusers::Scheduler::from_config(" "diffusers::write_file("
                        "typeinfo for diffusers::DDIMScheduler" "vtable for diffusers::DDIMScheduler"
                        "typeinfo for diffusers::ConfigError")
  string(FIND "${symbols}" " ${public}" found)
  if(found EQUAL -1)
    message(SEND_ERROR "${public}: is public, but not exported")
  endif()
endforeach()
foreach(private IN ITEMS "diffusers::internal::" "nlohmann::" "fmt::v")
  string(FIND "${symbols}" "${private}" found)
  if(NOT found EQUAL -1)
    string(SUBSTRING "${symbols}" ${found} 120 symbol)
    message(SEND_ERROR "${private}: is private, but exported: ${symbol}")
  endif()
endforeach()
