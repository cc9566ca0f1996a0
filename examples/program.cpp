#include "program.h"

#include <cstdio>
#include <exception>

#include <diffusers/training/trainer.h>

#include <c10/util/Exception.h>

int run_program(const char* name, int (*body)(int, char**), int argc, char** argv) {
  try {
    return body(argc, argv);
  } catch (const c10::Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what_without_backtrace());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return 1;
}

int exit_code(const diffusers::TrainingResult& result) {
  return !result.is_complete || result.signal ? 128 + result.signal.value_or(0) : 0;
}
