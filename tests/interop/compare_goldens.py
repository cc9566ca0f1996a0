#!/usr/bin/env python3
"""Compares two folders of golden files: same files, same keys, same metadata, close values.

    compare_goldens.py COMMITTED REMADE [--partial]     --partial: only the files that REMADE has

Tensors must agree to 1e-6 of the largest element and 2e-5 relative, which allows only for the summation order of another
CPU. Each gradient counts as a separate tensor, although one tensor holds many (tests/reference/gradients.py).
Other files must be equal.
"""
import argparse
import json
import math
import pathlib
import sys

import torch
from safetensors import safe_open

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
from gradients import LARGEST_WHOLE  # noqa: E402

IGNORED = {"README.md", ".gitkeep"}
# Compared as numbers. All other dtypes, including the eight-bit floats, are compared byte by byte.
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def scale_of(file, key, tensor):
    """Returns the scale of absolute differences: one number, or one for each element."""
    case, _, part = key.rpartition("/gradients/")
    if part not in ("elements", "projections"):
        finite = tensor[tensor.isfinite()]
        return finite.abs().max().item() if finite.numel() > 0 else 0.0
    sizes = file.get_tensor(case + "/gradients/sizes").tolist()
    if part == "elements":
        # The scale of an element is the largest element of its gradient.
        gradients = tensor.split([size for size in sizes if size <= LARGEST_WHOLE])
        largest = [each.abs().max().item() if each.numel() > 0 else 0.0 for each in gradients]
        return torch.cat([torch.full_like(each, scale) for each, scale in zip(gradients, largest)])
    # A projection of a difference d with n elements has the order of |d| / sqrt(n).
    roots = torch.tensor([math.sqrt(size) for size in sizes if size > LARGEST_WHOLE], dtype=torch.float64)
    return (file.get_tensor(case + "/gradients/norms") / roots)[:, None].expand_as(tensor)


def compare_tensors(name, committed, remade, problems):
    with safe_open(committed, "pt") as a, safe_open(remade, "pt") as b:
        if set(a.keys()) != set(b.keys()):
            problems.append(f"{name}: keys differ: {sorted(set(a.keys()) ^ set(b.keys()))[:10]}")
        if (a.metadata() or {}) != (b.metadata() or {}):
            problems.append(f"{name}: metadata differ")
        for key in sorted(set(a.keys()) & set(b.keys())):
            x, y = a.get_tensor(key), b.get_tensor(key)
            if x.dtype != y.dtype or x.shape != y.shape:
                problems.append(f"{name}: {key}: {x.dtype} {tuple(x.shape)} became {y.dtype} {tuple(y.shape)}")
            elif x.dtype in FLOATS:
                x, y = x.double(), y.double()
                scale = torch.as_tensor(scale_of(a, key, x), dtype=torch.float64)
                difference, largest = (x - y).abs(), scale.max().item() if scale.numel() > 0 else 0.0
                if not ((x == y) | (x.isnan() & y.isnan()) | (difference <= 2e-5 * x.abs() + 1e-6 * scale)).all():
                    problems.append(f"{name}: {key}: differs by {difference.max().item():.3g} (largest: {largest:.3g})")
            elif not torch.equal(x.reshape(-1).view(torch.uint8), y.reshape(-1).view(torch.uint8)):
                problems.append(f"{name}: {key}: differs")


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name not in IGNORED}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("committed", type=pathlib.Path)
    parser.add_argument("remade", type=pathlib.Path)
    parser.add_argument("--partial", action="store_true")
    arguments = parser.parse_args()
    committed, remade = files_of(arguments.committed), files_of(arguments.remade)
    problems = [f"{name}: remade, but not committed" for name in sorted(remade - committed)]
    if not arguments.partial:
        problems += [f"{name}: committed, but no script in tests/reference makes it" for name in sorted(committed - remade)]
    for name in sorted(committed & remade):
        a, b = arguments.committed / name, arguments.remade / name
        if name.endswith(".safetensors"):
            compare_tensors(name, a, b, problems)
        elif name.endswith(".json"):
            if json.loads(a.read_text()) != json.loads(b.read_text()):
                problems.append(f"{name}: differs")
        elif a.read_bytes() != b.read_bytes():
            problems.append(f"{name}: differs")
    print("\n".join(problems) if problems else f"{len(committed & remade)} golden files are unchanged")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
