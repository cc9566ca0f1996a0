#!/usr/bin/env python3
"""Runs one fuzzer: its corpus, then new inputs for some seconds. If the fuzzer was not built, the test is skipped.

    run.py --program build/fuzz/tests/fuzz/build/idx_fuzz [--seconds 20] [--keep FOLDER] CORPUS...

New inputs that reach new code are written to --keep, or dropped. Failing inputs are written to --artifacts, and
`PROGRAM FILE` repeats them. A missing or empty folder of the corpus is an error.

An input may take one second. libFuzzer measures elapsed time, which includes the time of other programs. A slow input is
therefore run again alone, and fails if it takes one second of processor time.
"""
import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import skips

MOST_SECONDS = 1  # seconds for an input
# The limits for a release.
LIMITS = ["-rss_limit_mb=512", "-malloc_limit_mb=256", f"-timeout={MOST_SECONDS}", f"-report_slow_units={MOST_SECONDS}"]
# Number of times that a busy machine may interrupt a run.
MOST_INTERRUPTIONS = 20


def processor_seconds(command):
    """Returns the processor time of a command and its result."""
    def used():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime
    before = used()
    result = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return used() - before, result.returncode


def is_only_late(program, path):
    """Returns true for an input that libFuzzer stopped because the machine was busy."""
    alone = [str(program), "-timeout=60", "-rss_limit_mb=512"]
    start, _ = processor_seconds([*alone, "/dev/null"])
    seconds, code = processor_seconds([*alone, str(path)])
    print(f"{path.name}: {seconds - start:.2f} s of the processor alone, exit {code}", flush=True)
    return code == 0 and seconds - start < MOST_SECONDS


def run(command, title):
    """Runs the fuzzer, and repeats the run if only a busy machine stopped it."""
    program = pathlib.Path(command[0])
    prefix = next(option for option in command if option.startswith("-artifact_prefix=")).split("=", 1)[1]
    end = time.monotonic() + next((float(option.split("=")[1]) for option in command if "-max_total_time=" in option), 0)
    for _ in range(MOST_INTERRUPTIONS):
        code, output = run_once(command, title)
        late = re.search(re.escape(prefix) + r"timeout-\w+", output)
        if code == 0 or not late:
            break
        path = pathlib.Path(late[0])
        if not is_only_late(program, path):
            break
        path.unlink()
        left = int(end - time.monotonic())
        if any("-max_total_time=" in option for option in command):
            if left <= 0:
                return 0
            command = [f"-max_total_time={left}" if "-max_total_time=" in option else option for option in command]
    if code != 0:
        print(output[-20000:])
    return code


def run_once(command, title):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", result.stdout)
    rate = re.search(r"stat::average_exec_per_sec:\s*(\d+)", result.stdout)
    coverage = re.findall(r"cov: (\d+)", result.stdout)
    if executions:
        print(f"{title}: {int(executions[1]):,} executions, {int(rate[1]):,} a second, {coverage[-1] if coverage else '?'} "
              "edges", flush=True)
    return result.returncode, result.stdout


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
    for folder in arguments.corpus:
        if not folder.is_dir() or not any(folder.iterdir()):
            sys.exit(f"the corpus {folder} is missing or empty; tests/fuzz/make_corpus.py makes the seeds")
    corpus = [str(folder) for folder in arguments.corpus]
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
