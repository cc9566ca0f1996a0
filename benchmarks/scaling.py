#!/usr/bin/env python3
"""Measures training on several processes of one machine with CPUs.

    benchmarks/scaling.py [--program build/release/examples/train_unconditional] [--processes 2] [--rounds 3]

- Efficiency: images per second of N processes with one thread each, divided by N times those of one process with one
  thread and the same batch per process. The runs alternate; the medians of all rounds are compared.
- Traffic: bytes that pass the loopback interface in a step, against the bound of a ring all-reduce, 2 (N - 1) / N times
  the bytes of the gradients for each process. The network namespace is private where `unshare -n` works (as root);
  otherwise the traffic of other programs is counted, too.
- Exchange: the time in which a process exchanges gradients in a step, and the part of it in which its backward pass still
  computes other gradients. The times are recorded in the training itself (DIFFUSERS_EXCHANGE_TRACE), when a bucket is handed to
  Gloo and when Gloo reports its end; the backward pass computes until it hands over the last bucket. Bytes of gradients that
  are handed over stand beside them.

Run it on an idle machine with N cores or more.
"""
import argparse
import csv
import json
import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile

TRACE = "DIFFUSERS_EXCHANGE_TRACE"
ROOT = pathlib.Path(__file__).resolve().parents[1]
# The model of docs/performance.md.
MODEL = {"_class_name": "UNet2DModel", "sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2,
         "block_out_channels": [32, 64, 64], "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
         "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]}


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def loopback_bytes():
    line = re.search(r"^\s*lo:(.*)$", pathlib.Path("/proc/net/dev").read_text(), re.MULTILINE)[1]
    return int(line.split()[8])


def covered(spans):
    """Length of the union of intervals."""
    length, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        length += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return length


def exchange_times(path, skipped=3):
    """Reads the trace of a process: medians over its steps, in seconds, without the first ones.

    backward: until the gradients are computed and exchanged; exchange: time in which a bucket is exchanged; hidden: the part of
    it before the last bucket is handed over, while other gradients are still computed; bytes: of all buckets.
    """
    steps = {}
    with open(path, newline="") as file:
        for line in csv.DictReader(file):
            steps.setdefault(int(line["step"]), []).append(
                (line["kind"], int(line["bytes"]), float(line["begin"]), float(line["end"])))
    rows = []
    for _, spans in sorted(steps.items())[skipped:]:
        backward = next(end - begin for kind, _, begin, end in spans if kind == "backward")
        exchanges = [(begin, end) for kind, _, begin, end in spans if kind == "exchange"]
        computed = max(begin for begin, _ in exchanges)
        rows.append({"backward": backward, "exchange": covered(exchanges), "buckets": len(exchanges),
                     "hidden": covered((begin, min(end, computed)) for begin, end in exchanges),
                     "bytes": sum(size for _, size, _, _ in spans)})
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def train(options, processes, steps, folder, trace=False):
    """Returns images per second, the parameters of the model, and the bytes that passed the loopback interface."""
    folder = pathlib.Path(folder)
    model = folder / "model.json"
    model.write_text(json.dumps(MODEL))
    command = [options.program, "--dataset", "mnist", "--resolution", "28", "--model_config_name_or_path", model, "--seed", "0",
               "--output_dir", folder / "out", "--overwrite_output_dir", "--train_batch_size", options.batch, "--max_train_steps", steps,
               "--logging_steps", "5", "--lr_warmup_steps", "0", "--eval_batch_size", "1", "--ddpm_num_inference_steps", "1",
               "--checkpointing_steps", "0", "--ddp_bucket_cap_mb", options.bucket_cap_mb, "--zero_stage", options.zero_stage]
    port, before, running = free_port(), loopback_bytes(), []
    for rank in range(processes):
        variables = os.environ | {"OMP_NUM_THREADS": "1"} | ({TRACE: str(folder / "trace")} if trace else {})
        if processes > 1:
            variables |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                          "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        running.append(subprocess.Popen([str(word) for word in command], env=variables, text=True, cwd=ROOT,
                                        stdout=subprocess.PIPE))
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"a training failed:\n{outputs[0]}")
    with open(folder / "out" / "metrics.csv", newline="") as file:
        rows = [float(row["images_per_second"]) for row in csv.DictReader(file)]
    parameters = int(re.search(r"with (\d+) parameters", outputs[0])[1])
    return statistics.median(rows[1:]), parameters, loopback_bytes() - before


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/examples/train_unconditional")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="samples of each process")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bucket_cap_mb", type=float, default=25.0, help="of the exchange; --ddp_bucket_cap_mb of the program")
    parser.add_argument("--zero_stage", type=int, default=0, help="what the processes divide (docs/distributed.md)")
    options = parser.parse_args()
    options.program = options.program.resolve()
    if os.geteuid() == 0 and "DIFFUSERS_SCALING_PRIVATE" not in os.environ:
        os.environ["DIFFUSERS_SCALING_PRIVATE"] = "1"
        script = 'ip link set lo up && exec "$0" "$@"'
        if subprocess.run(["unshare", "-n", "true"], capture_output=True).returncode == 0:
            os.execvp("unshare", ["unshare", "-n", "sh", "-c", script, sys.executable, *sys.argv])

    alone, together, traffic = [], [], []
    parameters = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            speed, parameters, _ = train(options, 1, options.steps, folder)
            alone.append(speed)
            speed, _, short = train(options, options.processes, options.steps, folder)
            together.append(speed)
            # The difference is without the start and the end.
            _, _, long = train(options, options.processes, 2 * options.steps, folder)
            traffic.append((long - short) / options.steps)
        train(options, options.processes, options.steps, folder, trace=True)
        times = [exchange_times(pathlib.Path(folder) / f"trace-rank{rank}-0.csv") for rank in range(options.processes)]
    one, several, count = statistics.median(alone), statistics.median(together), options.processes
    bound = 2 * (count - 1) * parameters * 4
    print(f"{parameters} parameters, {options.batch} images for each process, medians of {options.rounds} rounds\n"
          f"1 process, 1 thread: {one:.1f} images/s ({min(alone):.1f} to {max(alone):.1f})\n"
          f"{count} processes, 1 thread each: {several:.1f} images/s ({min(together):.1f} to {max(together):.1f})\n"
          f"efficiency: {several / (count * one):.3f}\n"
          f"bytes in a step, all processes: {statistics.median(traffic):.0f}, bound of a ring {bound}: "
          f"{statistics.median(traffic) / bound:.3f} times the bound")
    for rank, time in enumerate(times):
        print(f"process {rank}: backward pass with exchange {1000 * time['backward']:.1f} ms, {time['buckets']:.0f} buckets of "
              f"{time['bytes']:.0f} bytes in all, exchange {1000 * time['exchange']:.1f} ms, hidden behind the backward pass "
              f"{1000 * time['hidden']:.1f} ms ({time['hidden'] / time['exchange']:.0%})")


if __name__ == "__main__":
    main()
