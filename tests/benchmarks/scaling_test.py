#!/usr/bin/env python3
"""Checks what benchmarks/scaling.py computes of a trace, and the numbers of benchmarks/scaling_model.py, by hand."""
import math
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import scaling
import scaling_model as model


def close(value, expected, what):
    assert math.isclose(value, expected, rel_tol=1e-6), f"{what} is {value}, expected {expected}"


def check_trace():
    assert scaling.covered([(0, 2), (1, 3), (5, 6)]) == 4
    assert scaling.covered([]) == 0
    # A step of 10 s: buckets are exchanged from 2 to 5 and from 4 to 9, and from 8, when all is computed, to 10.
    lines = ["kind,step,bytes,begin,end", "backward,0,0,0,100", "exchange,0,8,1,90"]
    lines += ["backward,1,0,100,110", "exchange,1,100,102,105", "exchange,1,200,104,109", "exchange,1,300,108,110"]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trace.csv"
        path.write_text("\n".join(lines) + "\n")
        times = scaling.exchange_times(path, skipped=1)
    # Hidden: 2 to 8 of 2 to 10.
    assert times == {"backward": 10, "exchange": 8, "buckets": 3, "hidden": 6, "bytes": 600}, times


def check_model():
    close(model.compute_seconds("SD1.5, 512 x 512", 29), 29 / 36.25, "the time of 29 images")
    close(model.compute_seconds("SDXL, 1024 x 1024", 1), 6761.2 / 803.3 / 36.25, "the time of an image of SDXL")
    assert model.bucket_bytes(2**20, cap_mb=2) == [2**20, 2 * 2**20, 2**20]
    ethernet = model.NETWORKS["100 Gb/s Ethernet"]
    # 2 * 7/8 * 10^9 bytes at 230 GB/s are 7.608696 ms, and 14 steps of 5 us.
    close(model.exchange_seconds(1e9, 8, ethernet), 0.007608696 + 0.00007, "8 GPUs")
    # And 2 * 1/2 * 10^9 bytes at 10.625 GB/s, 94.117647 ms, and 2 steps of 20 us.
    close(model.exchange_seconds(1e9, 16, ethernet), 0.007678696 + 0.094117647 + 0.00004, "16 GPUs")
    close(model.exchange_seconds(1e9, 2, ethernet), 1 / 230 + 0.00001, "2 GPUs")
    # Forward 1 s, backward 2 s, buckets ready after 1 s and 2 s.
    step, hidden = model.step_seconds(3, [1, 1], [0.5, 0.5])
    close(step, 3.5, "a step with short exchanges")
    close(hidden, 0.5, "what is hidden of short exchanges")
    step, hidden = model.step_seconds(3, [1, 1], [2, 2])
    close(step, 6, "a step with long exchanges")  # the exchanges end 1 + 2 + 2 s after the forward pass
    close(hidden, 0.25, "what is hidden of long exchanges")
    step, hidden = model.step_seconds(3, [1, 1], [0, 0])
    close(step, 3, "a step without exchanges")
    assert hidden == 1
    step, efficiency, _ = model.row("SD1.5, 512 x 512", 1, ethernet, "float32", model.parse([]))
    close(step, 1000 * 16 / 36.25, "the step of one GPU")
    close(efficiency, 1, "the efficiency of one GPU")
    half = model.parse(["--batch", "8"])
    close(model.row("SD1.5, 512 x 512", 1, ethernet, "bf16", half)[0], 500 * 16 / 36.25, "the step of half a batch")
    assert model.tables(model.parse([])) in (ROOT / "docs/distributed.md").read_text(), \
        "docs/distributed.md does not show what benchmarks/scaling_model.py prints"


check_trace()
check_model()
print("benchmarks/scaling.py and scaling_model.py compute what they should")
