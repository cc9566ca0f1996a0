#pragma once

// Error handling and exit codes of the example programs.

namespace diffusers {
struct TrainingResult;
}

/// Runs a program's body with the arguments of `main`. An exception is printed as "NAME: MESSAGE" on standard
/// error and gives the exit code 1; the other processes of a group end with the same message. Errors of
/// LibTorch are printed without their stack trace.
int run_program(const char* name, int (*body)(int, char**), int argc, char** argv);

/// Returns the exit code of a program after training: 0, or 128 plus the number of the signal that stopped
/// it.
int exit_code(const diffusers::TrainingResult& result);
