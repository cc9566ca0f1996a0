#!/usr/bin/env python3
"""Trainings that are killed, whose disk fails or is damaged: nothing that was saved is ever lost.

    run.py --driver faults_driver --preload libfaults_short_writes.so kill|errors|corrupt|power

DIFFUSERS_FAULTS=all makes the sweeps complete; without it, an evenly spread part of each is run. Ends with 77 (ctest:
skipped) where strace is missing or may not trace.
"""
import argparse
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import corrupt
import errors
import kill
import power
from trainings import Failure, Trainings

SKIPPED = 77


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--preload", required=True)
    parser.add_argument("what", choices=["kill", "errors", "corrupt", "power"])
    arguments = parser.parse_args()
    sweep = {"kill": kill, "errors": errors, "corrupt": corrupt, "power": power}[arguments.what]
    start = time.monotonic()
    try:
        with Trainings(arguments.driver) as trainings:
            is_complete = sweep.run(trainings, arguments)
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    print(f"passed in {time.monotonic() - start:.0f} s")
    return 0 if is_complete else SKIPPED


if __name__ == "__main__":
    sys.exit(main())
