#!/usr/bin/env python3
"""Runs clang-tidy over the translation units of a build tree, two at a time.

LibTorch's headers cost 20 s a translation unit, so the unity batches of a target are checked as one; what they include
is reported under its own name. GCC's precompiled header and the flags that clang does not know are taken out of the
commands first.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))
import skips

GCC_ONLY = {"-Winvalid-pch", "-fpch-preprocess", "-fno-sanitize-recover=all"}


def clean(command):
    """The command without ccache, precompiled header and GCC's own flags."""
    words = command.split()
    compiler = next(i for i, w in enumerate(words) if re.search(r"(\+\+|g\+\+|clang\+\+|c\+\+)(-\d+)?$", w))
    result, skip = [], False
    for word, following in zip(words[compiler:], words[compiler + 1:] + [""]):
        if skip:
            skip = False
        elif word == "-include" and "cmake_pch" in following:
            # The precompiled header also stands for <torch/torch.h>, which sources include themselves.
            skip = True
        elif word not in GCC_ONLY:
            result.append(word)
    return " ".join(result)


def merge_batches(entries, folder):
    """One translation unit for all unity batches of a target, written to `folder`."""
    batches = {}
    for entry in entries:
        batches.setdefault(re.sub(r"/Unity/unity_\d+_cxx\.cxx$", "/Unity", entry["file"]), []).append(entry)
    merged = []
    for target, group in batches.items():
        if len(group) == 1:
            merged += group
            continue
        unit = folder / f"{pathlib.Path(target).parent.stem}.cxx"
        unit.write_text("".join(f'#include "{entry["file"]}"\n' for entry in group))
        command = group[0]["command"].replace(group[0]["file"], str(unit))
        merged.append({**group[0], "file": str(unit), "command": command})
    return merged


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=pathlib.Path, required=True, help="build tree with compile_commands.json")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("patterns", nargs="*", default=["."], help="regular expressions of paths in the repository")
    arguments = parser.parse_args()
    tool = shutil.which("clang-tidy") or shutil.which("clang-tidy-14")
    if tool is None:
        return skips.skip("tidy", "clang-tidy is missing (Debian: apt-get install clang-tidy)", tool_is_missing=True)

    commands = json.loads((arguments.build / "compile_commands.json").read_text())
    chosen, seen = [], set()
    for entry in commands:
        name = entry["file"]
        ours = name.startswith((str(ROOT) + os.sep, str(arguments.build.resolve()) + os.sep))
        if not name.endswith((".cpp", ".cxx")) or name in seen or name.endswith(("pch.cpp", "cmake_pch.hxx.cxx")):
            continue
        if "-fopenmp" in entry["command"].split():
            continue  # <omp.h> is the compiler's own, and Debian's clang comes without
        if ours and "_dependencies" not in name and any(re.search(p, name.removeprefix(f"{ROOT}/")) for p in arguments.patterns):
            seen.add(name)
            chosen.append({**entry, "command": clean(entry["command"])})

    # Sources are headers to a unity batch.
    header_filter = f"^{re.escape(str(ROOT))}/(include|src|tests|examples|benchmarks)/"
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        chosen = merge_batches(chosen, pathlib.Path(folder))
        (pathlib.Path(folder) / "compile_commands.json").write_text(json.dumps(chosen))

        def check(entry):
            start = time.monotonic()
            run = subprocess.run(
                [tool, "-p", folder, "--quiet", f"--config-file={ROOT / '.clang-tidy'}",
                 f"--header-filter={header_filter}", entry["file"]],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            return entry["file"], run, time.monotonic() - start

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for name, run, seconds in pool.map(check, chosen):
                print(f"{'FAILED' if run.returncode else 'ok':6} {seconds:6.1f} s  {name.removeprefix(f'{ROOT}/')}", flush=True)
                if run.returncode:
                    failed += 1
                    # Notes without a finding on standard error only count suppressed warnings of other headers.
                    print(run.stdout or run.stderr, flush=True)
    print(f"clang-tidy: {len(chosen) - failed} of {len(chosen)} translation units are clean")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
