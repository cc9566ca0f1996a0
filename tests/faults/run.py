#!/usr/bin/env python3
"""Trainings that are killed, or whose disk fails or is damaged, lose no saved data.

    run.py --driver faults_driver --preload libfaults_short_writes.so kill|tasks|errors|task_errors|corrupt|power

DIFFUSERS_FAULTS=all makes the sweeps complete. Without it, an evenly spaced part of each is run. If strace is missing or not
permitted to trace, the test is reported as skipped (tests/support/skips.py).
"""
import argparse
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(pathlib.Path(__file__).parent))
import corrupt
import errors
import kill
import power
import skips
import task_errors
import tasks
import tracing
from trainings import Failure, Trainings


SWEEPS = {"kill": kill, "tasks": tasks, "errors": errors, "task_errors": task_errors, "corrupt": corrupt, "power": power}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--preload", required=True)
    parser.add_argument("what", choices=SWEEPS)
    arguments = parser.parse_args()
    sweep = SWEEPS[arguments.what]
    start = time.monotonic()
    try:
        with Trainings(arguments.driver) as trainings:
            is_complete = sweep.run(trainings, arguments)
            problem = None if is_complete else tracing.is_possible(trainings)
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    print(f"passed in {time.monotonic() - start:.0f} s")
    if is_complete:
        return 0
    return skips.skip(f"faults.{arguments.what}", problem, tool_is_missing=shutil.which("strace") is None)


if __name__ == "__main__":
    sys.exit(main())
