#pragma once

// What all programs share: how they report an error, and the flag --device.

#include <CLI/CLI.hpp>
#include <string>

#include <c10/core/Device.h>

/// Runs a program's body with the arguments of `main`. An exception becomes a message on standard error,
/// "NAME: what happened", and the exit code 1; LibTorch's own errors are shown without their stack trace.
int run_program(const char* name, int (*body)(int, char**), int argc, char** argv);

/// Adds `--device`: cpu, cuda or cuda:INDEX. A device that this machine or this LibTorch does not have ends
/// the parsing with an error that lists the available ones.
/// @param device the default, and where the value goes
void add_device_flag(CLI::App& app, std::string& device);

/// The available devices: "cpu", "cpu, cuda:0, cuda:1".
std::string available_devices();
