#!/usr/bin/env python3
"""Measures how long programs that include libdiffusers take to compile.

    compile_time.py [--build build/release] [--repeat 3] [--check]

Needs a configured build tree, which gives the path of LibTorch. With --check it fails if a limit is exceeded. Measure on an
idle machine.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]

# title, limit in seconds, program
PROGRAMS = [
    ("empty program", None, "int main() {}\n"),
    ("ATen/core/Tensor.h alone", None, "#include <ATen/core/Tensor.h>\nint main() {}\n"),
    ("one scheduler", 4.0, """
#include <diffusers/schedulers/ddpm_scheduler.h>
int main() {
  diffusers::DDPMScheduler scheduler({.num_train_timesteps = 100});
  return static_cast<int>(scheduler.timesteps().numel());
}
"""),
    ("UNet2DModel", 25.0, """
#include <diffusers/models/unet_2d.h>
int main() {
  diffusers::UNet2DModel unet({.sample_size = 28, .in_channels = 1, .out_channels = 1});
  return static_cast<int>(unet->num_parameters());
}
"""),
    ("diffusers/diffusers.h", None, "#include <diffusers/diffusers.h>\nint main() {}\n"),
    ("torch/torch.h", None, "#include <torch/torch.h>\nint main() {}\n"),
]


def torch_folder(build):
    cache = (build / "CMakeCache.txt").read_text()
    found = re.search(r"^Torch_DIR:\w+=(.+)$", cache, re.M)
    if not found:
        sys.exit(f"{build} is not a configured build tree of libdiffusers")
    return pathlib.Path(found.group(1)).parents[2], re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.M).group(1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build" / "release")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    torch, compiler = torch_folder(arguments.build)
    flags = ["-std=c++20", "-O2", f"-I{ROOT / 'include'}", "-isystem", str(torch / "include"),
             "-isystem", str(torch / "include/torch/csrc/api/include")]
    results, exceeded = {}, []
    with tempfile.TemporaryDirectory() as folder:
        source, output = pathlib.Path(folder) / "program.cpp", pathlib.Path(folder) / "program.o"
        for title, limit, program in PROGRAMS:
            source.write_text(program)
            seconds = []
            for _ in range(arguments.repeat):
                start = time.monotonic()
                subprocess.run([compiler, *flags, "-c", str(source), "-o", str(output)], check=True)
                seconds.append(time.monotonic() - start)
            results[title] = round(min(seconds), 2)
            if limit and min(seconds) > limit:
                exceeded.append(title)
            print(f"{title:26} {min(seconds):6.2f} s" + (f"   limit {limit:g} s" if limit else ""), flush=True)
    print(json.dumps(results))
    return 1 if arguments.check and exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
