"""Reports that a test script, or a part of it, is skipped.

ctest lists these reasons after its summary (list_skips.cmake), with those of the C++ tests (test_main.cpp). If
DIFFUSERS_REQUIRE_TOOLS is set, as in .ci/run, a missing tool is a failure.
"""
import os
import pathlib

SKIPPED = 77


def are_tools_required():
    return os.environ.get("DIFFUSERS_REQUIRE_TOOLS", "0") not in ("", "0")


def skip(name, reason, tool_is_missing=False):
    """Reports that the ctest test `name` is skipped, and why. Returns the exit code: 77, or 1 if the tool is required."""
    if tool_is_missing and are_tools_required():
        print(f"FAILED: {name}: {reason}. DIFFUSERS_REQUIRE_TOOLS is set, so nothing may be missing.", flush=True)
        return 1
    print(f"SKIPPED: {name}: {reason}", flush=True)
    if folder := os.environ.get("DIFFUSERS_SKIPS"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        with open(pathlib.Path(folder) / f"{name}.txt", "a") as file:
            file.write(f"{name}: {reason}\n")
    return SKIPPED
