#include "program.h"

#include <cstdio>
#include <exception>

#include <diffusers/training/trainer.h>

#include <c10/util/Exception.h>

#include "training_group.h"

int run_program(const char* name, int (*body)(int, char**), int argc, char** argv) {
  int status = 1;
  const auto report = [name](const char* message) {
    abort_training_group(message);
    std::fprintf(stderr, "%s: %s\n", name, message);
  };
  try {
    status = body(argc, argv);
  } catch (const c10::Error& error) {
    report(error.what_without_backtrace());
  } catch (const std::exception& error) {
    report(error.what());
  }
  leave_training_group();
  return status;
}

int exit_code(const diffusers::TrainingResult& result) {
  return !result.is_complete || result.signal ? 128 + result.signal.value_or(0) : 0;
}
