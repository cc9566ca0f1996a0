#!/usr/bin/env python3
"""Trainings on several processes.

    run.py --driver distributed_driver --python PYTHON equality   N processes train as one, and as Python's DDP
    run.py --driver distributed_driver --python PYTHON faults     processes that end, stop, disagree or do not meet
    run.py --driver distributed_driver --python PYTHON zero       processes that divide the state of the training (zero_stage)

PYTHON is that of the environment of tests/interop, whose torchrun starts the processes.
"""
import argparse
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
import equality
import faults
import skips
import zero
from launching import Failure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", required=True, type=pathlib.Path)
    parser.add_argument("--python", required=True, type=pathlib.Path)
    parser.add_argument("what", choices=["equality", "faults", "zero"])
    arguments = parser.parse_args()
    if not arguments.python.exists():
        return skips.skip(f"distributed.{arguments.what}", f"there is no {arguments.python}, which has torchrun",
                          tool_is_missing=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="distributed-") as folder:
        try:
            {"equality": equality, "faults": faults, "zero": zero}[arguments.what].run(arguments.driver, arguments.python,
                                                                        pathlib.Path(folder))
        except Failure as failure:
            print(f"FAILED: {failure}")
            return 1
    print(f"passed in {time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
