#!/usr/bin/env python3
"""Tests that compare_goldens.py reports differences: it makes, changes and compares complete folders."""
import math
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "reference"))
from gradients import LARGEST_WHOLE, gradients  # noqa: E402


def golden_of(model, change=None):
    """Returns the golden tensors of a model after `change` has changed its gradients."""
    model.zero_grad()
    generator = torch.Generator().manual_seed(2)
    model(torch.randn(5, 40, generator=generator)).square().sum().backward()
    if change is not None:
        change(dict(model.named_parameters()))
    tensors = {"value": torch.linspace(-1, 1, 7)}
    gradients("case", model, tensors)
    return tensors


def swap(name, i, j):
    def change(parameters):
        flat = parameters[name].grad.view(-1)
        flat[[i, j]] = flat[[j, i]]

    return change


def transpose(name):
    def change(parameters):
        gradient = parameters[name].grad
        gradient.copy_(gradient.t().contiguous().view(gradient.shape))

    return change


def scale_by(name, factor):
    def change(parameters):
        parameters[name].grad *= factor

    return change


def drop(name):
    def change(parameters):
        parameters[name].grad = None

    return change


def compare(folder, committed, remade):
    for name, tensors in (("committed", committed), ("remade", remade)):
        (folder / name).mkdir(exist_ok=True)
        save_file(tensors, folder / name / "golden.safetensors")
    command = [sys.executable, HERE / "compare_goldens.py", folder / "committed", folder / "remade"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.returncode, result.stdout


def main():
    torch.manual_seed(1)
    # The first weight is large and the others are small. The last layer makes the gradients of the second small.
    layers = torch.nn.Linear(40, 20), torch.nn.SiLU(), torch.nn.Linear(20, 20), torch.nn.Linear(20, 3)
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        model[3].weight *= 1e-3
    sizes = [parameter.numel() for parameter in model.parameters()]
    assert max(sizes) > LARGEST_WHOLE and min(sizes) < 5, sizes
    expected = golden_of(model)
    changes = {
        "nothing": (None, 0),
        "a rounding of a large gradient": (scale_by("0.weight", 1 + 1e-7), 0),
        "a rounding of a small gradient": (scale_by("2.bias", 1 + 1e-7), 0),
        "two elements of a large gradient": (swap("0.weight", 3, 500), 1),
        "two elements of a small gradient": (swap("2.weight", 3, 300), 1),
        "two elements of the smallest gradient": (swap("3.bias", 0, 2), 1),
        "a large gradient, transposed": (transpose("0.weight"), 1),
        "a small gradient, transposed": (transpose("2.weight"), 1),
        "a gradient that is 0.01 % too large": (scale_by("0.weight", 1.0001), 1),
        "a small gradient that is 0.01 % too large": (scale_by("2.weight", 1.0001), 1),
        "a gradient that is missing": (drop("2.bias"), 1),
    }
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for title, (change, wanted) in changes.items():
            code, output = compare(pathlib.Path(folder), expected, golden_of(model, change))
            if code != wanted:
                failed += 1
                print(f"{title}: ended with {code}, expected {wanted}: {output}")
        wrong = {**expected, "value": expected["value"].flip(0)}
        wrong["value"][0] = math.nan
        code, output = compare(pathlib.Path(folder), expected, wrong)
        if code != 1 or "value: differs" not in output:
            failed += 1
            print(f"a tensor with NaN: ended with {code}: {output}")
    count = len(changes) + 1
    print(f"{failed} of {count} changes were judged wrongly" if failed else f"{count} changes were judged rightly")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
