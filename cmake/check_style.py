#!/usr/bin/env python3
"""Runs clang-format over the sources: checks them, or with --fix rewrites them.

Ends with 77 (ctest: skipped) where clang-format is missing.
"""
import argparse
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDERS = ["include", "src", "tests", "examples", "benchmarks"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true")
    fix = parser.parse_args().fix
    tool = shutil.which("clang-format") or shutil.which("clang-format-14")
    if tool is None:
        print("clang-format is missing (Debian: apt-get install clang-format)")
        return 77
    files = sorted(str(p) for f in FOLDERS for p in (ROOT / f).rglob("*") if p.suffix in SUFFIXES)
    print(f"{len(files)} files", flush=True)
    return subprocess.run([tool, *(["-i"] if fix else ["--dry-run", "-Werror"]), *files]).returncode


if __name__ == "__main__":
    sys.exit(main())
