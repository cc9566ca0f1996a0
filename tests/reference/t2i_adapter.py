"""Golden tensors of T2IAdapter and MultiAdapter: forward, backward and initial weights of Python diffusers 0.42.1.

Writes t2i_adapter.json (configs and checksums) and t2i_adapter.safetensors (inputs, outputs, gradients) to the folder
given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
from pathlib import Path

import torch
from diffusers import MultiAdapter, T2IAdapter
from gradients import gradients
from models import entry_of, pattern, run_cases, write

# name -> config; "run" holds the arguments of the call.
CASES = {
    "full": {"channels": [4, 6, 8, 8], "downscale_factor": 4, "run": {"size": [32, 48], "float64": True}},
    "full_odd_features": {
        "channels": [6, 5],
        "in_channels": 1,
        "num_res_blocks": 1,
        "downscale_factor": 2,
        "run": {"size": [10, 6]},
    },
    "full_xl": {
        "channels": [4, 6, 8, 8],
        "downscale_factor": 4,
        "adapter_type": "full_adapter_xl",
        "run": {"size": [24, 16], "float64": True},
    },
    "full_xl_short": {
        "channels": [4, 4],
        "downscale_factor": 2,
        "num_res_blocks": 3,
        "adapter_type": "full_adapter_xl",
        "run": {"size": [8, 12]},
    },
    "light": {
        "channels": [8, 12, 16],
        "downscale_factor": 4,
        "num_res_blocks": 2,
        "adapter_type": "light_adapter",
        "run": {"size": [32, 40], "float64": True},
    },
    "light_uneven": {
        "channels": [10, 7],
        "downscale_factor": 1,
        "num_res_blocks": 1,
        "adapter_type": "light_adapter",
        "run": {"size": [9, 7]},
    },
    "no_residual_blocks": {"channels": [4, 8], "downscale_factor": 2, "num_res_blocks": 0, "run": {"size": [8, 8]}},
}


def run_case(name, seed, tensors, dtype):
    config = dict(CASES[name])
    run = config.pop("run", {})
    torch.manual_seed(seed)
    model = T2IAdapter(**config)
    entry = {
        **entry_of(model, config, run, seed),
        "total_downscale_factor": model.total_downscale_factor,
        "downscale_factor": model.downscale_factor,
    }
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn([2, model.config.in_channels, *run["size"]], generator=generator).to(dtype).requires_grad_(True)
    features = model(x)
    sum((feature * pattern(feature.shape, dtype)).sum() for feature in features).backward()
    key = name if dtype == torch.float32 else name + ".float64"
    tensors[key + "/x"] = x.detach()
    for index, feature in enumerate(features):
        tensors[f"{key}/feature_{index}"] = feature.detach()
    tensors[key + "/grad_x"] = x.grad
    gradients(key, model, tensors)
    entry["num_features"] = len(features)
    return entry


def run_multi(tensors):
    torch.manual_seed(40)
    config = {"channels": [4, 6], "downscale_factor": 2, "num_res_blocks": 1}
    model = MultiAdapter([T2IAdapter(in_channels=channels, **config) for channels in (3, 1, 3)])
    generator = torch.Generator().manual_seed(7)
    xs = [torch.randn([2, channels, 8, 8], generator=generator) for channels in (3, 1, 3)]
    for index, x in enumerate(xs):
        tensors[f"multi/x_{index}"] = x
    for name, weights in {"equal": None, "weighted": [0.7, 0.2, -0.1]}.items():
        for dtype, suffix in ((torch.float32, ""), (torch.float64, ".float64")):
            with torch.no_grad():
                features = model.to(dtype)([x.to(dtype) for x in xs], weights)
            model.to(torch.float32)
            for index, feature in enumerate(features):
                tensors[f"multi/{name}{suffix}_{index}"] = feature


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    cases, tensors = run_cases(out, CASES, run_case)
    run_multi(tensors)
    write(out, "t2i_adapter", tensors, cases=cases, default=T2IAdapter().to_json_string())


if __name__ == "__main__":
    main()
