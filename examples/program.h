#pragma once

// Error handling of the example programs.

/// Runs a program's body with the arguments of `main`. An exception is printed as "NAME: MESSAGE" on standard
/// error and gives the exit code 1. Errors of LibTorch are printed without their stack trace.
int run_program(const char* name, int (*body)(int, char**), int argc, char** argv);
