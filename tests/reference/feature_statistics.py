"""Golden values of the Frechet distance, by the formula of Heusel et al. 2017 as pytorch-fid computes it."""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


def frechet_distance(a, b):
    """|mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 sqrtm(S_1 S_2)); the root's trace is the sum of the roots of the eigenvalues."""
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex))
    return ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots.real.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(51)
    mix = torch.randn(7, 7, generator=generator)
    tensors = {
        "a": torch.randn(60, 7, generator=generator) @ mix,
        "b": torch.randn(40, 7, generator=generator) * 2 + 1,
        # Covariances of rank 3.
        "few": torch.randn(4, 7, generator=generator),
    }
    arrays = {name: value.double().numpy() for name, value in tensors.items()}
    for name, array in arrays.items():
        tensors[f"{name}.mean"] = torch.from_numpy(array.mean(axis=0))
        tensors[f"{name}.covariance"] = torch.from_numpy(np.cov(array, rowvar=False))
    for first, second in (("a", "b"), ("a", "few")):
        tensors[f"{first}_{second}"] = torch.tensor(frechet_distance(arrays[first], arrays[second]), dtype=torch.float64)
    save_file(tensors, out / "feature_statistics.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
