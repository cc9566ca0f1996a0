#!/usr/bin/env python3
"""Runs one fuzzer: its corpus, then new inputs for some seconds. Where it was not built, it ends as a skipped test.

    run.py --program build/fuzz/tests/fuzz/build/idx_fuzz [--seconds 20] [--keep FOLDER] CORPUS...

New inputs that reach new code go to --keep, or are dropped. Inputs that break something are written to --artifacts, and
`PROGRAM FILE` repeats them.
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import skips

# The figures that a release is held to; a slow unit is reported after one second, and fails after five, because the
# machine may be busy.
LIMITS = ["-rss_limit_mb=512", "-malloc_limit_mb=256", "-timeout=5", "-report_slow_units=1"]


def run(command, title):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stdout)
    rate = re.search(r"stat::average_exec_per_sec:\s*(\d+)", result.stdout)
    coverage = re.findall(r"cov: (\d+)", result.stdout)
    if executions:
        print(f"{title}: {int(executions[1]):,} executions, {int(rate[1]):,} a second, {coverage[-1] if coverage else '?'} "
              "edges", flush=True)
    if result.returncode != 0:
        print(result.stdout[-20000:])
    return result.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+", type=pathlib.Path)
    parser.add_argument("--program", type=pathlib.Path, required=True)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--executions", type=int, help="instead of --seconds")
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    parser.add_argument("--dictionary", type=pathlib.Path)
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--artifacts", type=pathlib.Path, default=pathlib.Path.cwd())
    arguments = parser.parse_args()
    if not arguments.program.exists():
        name = "fuzz." + arguments.program.name.removesuffix("_fuzz")
        return skips.skip(name, f"there is no {arguments.program}. Build the target `fuzzers`; it needs a clang++ with "
                          "libFuzzer (Debian: apt-get install clang-14 libclang-rt-14-dev)", tool_is_missing=True)
    corpus = [str(folder) for folder in arguments.corpus if folder.exists()]
    os.environ.setdefault("UBSAN_OPTIONS", "print_stacktrace=1")
    os.environ.setdefault("ASAN_OPTIONS", "quarantine_size_mb=32")
    program = [str(arguments.program), *LIMITS, "-print_final_stats=1", "-max_len=8192",
               f"-artifact_prefix={arguments.artifacts}/{arguments.program.name}-"]
    if arguments.dictionary:
        program.append(f"-dict={arguments.dictionary}")
    with tempfile.TemporaryDirectory() as folder:
        keep = arguments.keep or pathlib.Path(folder)
        keep.mkdir(parents=True, exist_ok=True)
        failed = run([*program, "-runs=0", *corpus], "corpus")
        if failed or not (arguments.seconds or arguments.executions):
            return failed
        length = f"-runs={arguments.executions}" if arguments.executions else f"-max_total_time={arguments.seconds}"
        return run([*program, length, f"-seed={arguments.seed}", str(keep), *corpus], "new inputs")


if __name__ == "__main__":
    sys.exit(main())
