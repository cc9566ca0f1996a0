"""Golden tensors of drawn training timesteps: diffusers' biased regions and torch's uniform draws."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

STEPS = 1000


def region_weights(strategy, multiplier, begin, end, portion):
    """Returns the weights of train_text_to_image_sdxl.py's flags, which multiply the probability of a region."""
    weights = torch.ones(STEPS)
    count = int(portion * STEPS)
    region = {"earlier": slice(0, count), "later": slice(-count, None), "range": slice(begin, end)}[strategy]
    weights[region] *= multiplier
    return weights / weights.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    tensors, cases = {}, []
    for strategy, multiplier, begin, end, portion in (
        ("earlier", 2.0, 0, 1000, 0.25),
        ("later", 3.5, 0, 1000, 0.1),
        ("range", 0.25, 200, 500, 0.25),
    ):
        weights = region_weights(strategy, multiplier, begin, end, portion)
        name = f"biased.{strategy}"
        tensors[f"{name}.weights"] = weights
        tensors[f"{name}.draw"] = torch.multinomial(
            weights, 40, replacement=True, generator=torch.Generator().manual_seed(11)
        )
        cases.append({"name": name, "strategy": strategy, "multiplier": multiplier, "begin": begin, "end": end,
                      "portion": portion})
    tensors["uniform.draw"] = torch.randint(0, STEPS, (40,), generator=torch.Generator().manual_seed(12))
    save_file(tensors, out / "timesteps.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
