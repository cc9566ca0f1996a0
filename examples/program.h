#pragma once

// The frame of every program: how it reports an error.

/// Runs a program's body with the arguments of `main`. An exception becomes a message on standard error,
/// "NAME: what happened", and the exit code 1. Errors of LibTorch are shown without their stack trace.
int run_program(const char* name, int (*body)(int, char**), int argc, char** argv);
