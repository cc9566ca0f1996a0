#!/usr/bin/env python3
"""Compares the time and memory of loading a model folder in this library with Python safetensors.

    cmake --build build/release --target loading_benchmark
    ~/.cache/libdiffusers/reference-0.42.1/bin/python benchmarks/loading.py [--gigabytes 3.4] [--rounds 5]

Makes a folder of float32 tensors with the shapes of Stable Diffusion's UNet, loads it in these ways, and removes it:

    C++                load_weights: the tensors are read into memory of the process
    Python, copied     load_file, then a clone of each tensor: memory of the process, as in C++
    Python, touched    load_file, then a sum over each tensor: every page of the mapped file is read once
    Python, lazy       load_file alone: the file is mapped but not read

Each load runs in a new process, with the file in the page cache, after a load that is not measured. The time is that of
loading alone. The memory is the peak resident size of the process; for Python it includes the pages of the mapped file.
"""
import argparse
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The shapes of the largest tensors of a UNet, and small ones between them.
SHAPES = [(1280, 1280, 3, 3), (1280,), (1280, 2560, 3, 3), (640, 640, 3, 3), (640,), (320, 320, 3, 3), (320,), (1280, 1280),
          (10240, 1280), (1280, 5120), (1280, 768), (640, 640), (320, 320), (1280, 320)]


def make_folder(folder, size):
    import torch
    from safetensors.torch import save_file
    tensors, total, number = {}, 0, 0
    while total < size:
        shape = SHAPES[number % len(SHAPES)]
        tensor = torch.full(shape, float(number))
        tensors[f"blocks.{number}.weight"] = tensor
        total += tensor.nbytes
        number += 1
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    return total, number


def python_load(folder, mode):
    import torch  # noqa: F401: its import is not what is measured
    from safetensors.torch import load_file
    start = time.perf_counter()
    tensors = load_file(folder / "diffusion_pytorch_model.safetensors")
    if mode == "copied":
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    elif mode == "touched":
        for tensor in tensors.values():
            tensor.sum()
    seconds = time.perf_counter() - start
    total = sum(tensor.nbytes for tensor in tensors.values())
    print(f"{seconds:.4f} {total} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=ROOT / "build/release/benchmarks/loading_benchmark")
    parser.add_argument("--gigabytes", type=float, default=3.4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="where the file is made; default: the temporary folder")
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        python_load(pathlib.Path(arguments.load[0]), arguments.load[1])
        return 0

    folder = pathlib.Path(tempfile.mkdtemp(prefix="loading-", dir=arguments.folder))
    try:
        # In a process of its own, so that its memory is free again.
        if os.fork() == 0:
            make_folder(folder, arguments.gigabytes * 1e9)
            os._exit(0)
        if os.wait()[1] != 0:
            return 1
        this = [sys.executable, __file__, "--load", folder]
        commands = {"C++": [arguments.program, folder], "Python, copied": [*this, "copied"],
                    "Python, touched": [*this, "touched"], "Python, lazy": [*this, "lazy"]}
        results = {name: [] for name in commands}
        for number in range(arguments.rounds + 1):
            for name, command in commands.items():
                # The same process before each: what it frees is what the next one gets, and a virtual machine takes back
                # memory that lies free for a while.
                subprocess.run([str(word) for word in commands["C++"]], check=True, stdout=subprocess.DEVNULL)
                output = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
                seconds, size, peak = output.split()
                if number > 0:  # the first round fills the page cache
                    results[name].append((float(seconds), int(size), int(peak)))
        size = results["C++"][0][1]
        print(f"{size / 1e9:.2f} GB of float32, {arguments.rounds} rounds in turn, {os.cpu_count()} CPUs; median (fastest)")
        for name, rounds in results.items():
            times, peaks = [seconds for seconds, _, _ in rounds], [peak for _, _, peak in rounds]
            print(f"{name:16} {statistics.median(times):7.2f} s ({min(times):.2f} s)   largest resident memory "
                  f"{max(peaks) / 1e9:.2f} GB, {max(peaks) / size * 100 - 100:+.1f} % of the tensors")
    finally:
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
