#!/usr/bin/env python3
"""Runs clang-format over the sources: checks them, or with --fix rewrites them.

Where clang-format is missing, it ends as a skipped test (tests/support/skips.py).
"""
import argparse
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import skips

FOLDERS = ["include", "src", "tests", "examples", "benchmarks"]
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true")
    fix = parser.parse_args().fix
    tool = shutil.which("clang-format") or shutil.which("clang-format-14")
    if tool is None:
        return skips.skip("style", "clang-format is missing (Debian: apt-get install clang-format)", tool_is_missing=True)
    files = sorted(str(p) for f in FOLDERS for p in (ROOT / f).rglob("*") if p.suffix in SUFFIXES)
    print(f"{len(files)} files", flush=True)
    return subprocess.run([tool, *(["-i"] if fix else ["--dry-run", "-Werror"]), *files]).returncode


if __name__ == "__main__":
    sys.exit(main())
