#!/usr/bin/env python3
"""Golden tensors of further optimizers and averages: Adafactor and Lion, float64, latent-diffusion's EMA, and the profiles
of post-hoc EMA.

    training_optimizers.py [--out FOLDER]
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

STEPS = 20
SHAPES = {"matrix": (4, 3), "kernel": (3, 2, 3, 3), "vector": (7,), "scalar": ()}


class Lion(torch.optim.Optimizer):
    """Lion, implemented from algorithm 2 of Chen et al. 2023."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                m = state.setdefault("exp_avg", torch.zeros_like(p))
                update = (beta1 * m + (1 - beta1) * p.grad).sign()
                p -= group["lr"] * (update + group["weight_decay"] * p)
                state["exp_avg"] = beta2 * m + (1 - beta2) * p.grad


def make(case, groups):
    betas = (case.get("beta1", 0.9), case.get("beta2", 0.999))
    common = {"lr": case["lr"], "weight_decay": case["weight_decay"]}
    if case["type"] == "adafactor":
        eps = (case.get("eps1"), case.get("eps2", 1e-3))
        return torch.optim.Adafactor(groups, beta2_decay=case.get("beta2_decay", -0.8), eps=eps, d=case.get("d", 1.0), **common)
    if case["type"] == "lion":
        return Lion(groups, betas=betas, **common)
    if case["type"] == "sgd":
        return torch.optim.SGD(groups, momentum=case["momentum"], nesterov=case["nesterov"], **common)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[case["type"]]
    return kind(groups, betas=betas, eps=case.get("eps", 1e-8), amsgrad=case.get("amsgrad", False), **common)


def optimizers(out):
    generator = torch.Generator().manual_seed(11)
    start = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    grads = {name: torch.randn(STEPS, *shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}
    # Gradients of very different sizes, so the clipping of updates and the lower bounds have an effect.
    for name in grads:
        grads[name] *= torch.logspace(-2, 1, STEPS, dtype=torch.float64).view(-1, *[1] * len(SHAPES[name]))
    start["vector"] *= 1e-4
    tensors = {f"start.{k}": v.float() for k, v in start.items()} | {f"grads.{k}": v.float() for k, v in grads.items()}
    # Both dtypes start from the same values.
    start, grads = ({k: tensors[f"{kind}.{k}"] for k in SHAPES} for kind in ("start", "grads"))
    cases = [
        {"type": "adafactor", "lr": 1e-2, "weight_decay": 0.0},
        {"type": "adafactor", "lr": 0.5, "weight_decay": 0.02, "beta2_decay": -0.6, "eps1": 1e-2, "eps2": 0.05, "d": 1.5},
        {"type": "lion", "lr": 1e-2, "weight_decay": 0.0, "beta2": 0.99},
        {"type": "lion", "lr": 3e-3, "weight_decay": 0.1, "beta1": 0.95, "beta2": 0.98},
    ]
    cases = [{**case, "dtype": dtype} for case in cases for dtype in ("float32", "float64")]
    cases += [
        {**case, "dtype": "float64"}
        for case in (
            {"type": "adamw", "lr": 1e-2, "weight_decay": 1e-2, "beta1": 0.95},
            {"type": "adamw", "lr": 1e-2, "weight_decay": 0.0, "beta2": 0.99, "amsgrad": True},
            {"type": "adam", "lr": 1e-2, "weight_decay": 1e-2},
            {"type": "sgd", "lr": 1e-2, "weight_decay": 1e-2, "momentum": 0.9, "nesterov": True},
        )
    ]
    for number, case in enumerate(cases):
        dtype = getattr(torch, case["dtype"])
        parameters = {name: nn.Parameter(value.to(dtype, copy=True)) for name, value in start.items()}
        first = [parameters["matrix"], parameters["vector"]]
        # The second group overrides options, and its parameters have no gradient in the first steps.
        second = [parameters["kernel"], parameters["scalar"]]
        optimizer = make(case, [{"params": first}, {"params": second, "lr": 5e-3, "weight_decay": 0.1}])
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + 0.1 * step))
        paths = {name: [] for name in SHAPES}
        for step in range(STEPS):
            for name, parameter in parameters.items():
                late = name in ("kernel", "scalar") and step < 3
                parameter.grad = None if late else grads[name][step].to(dtype)
            optimizer.step()
            schedule.step()
            for name, parameter in parameters.items():
                paths[name].append(parameter.detach().clone())
        for name, path in paths.items():
            # Records every step of the first two parameters, and only the last step of the large ones.
            tensors[f"{number}.{name}"] = torch.stack(path if name != "kernel" else path[-1:])
        for (_, state), name in zip(optimizer.state.items(), ("matrix", "vector", "kernel", "scalar")):
            for key, value in state.items():
                tensors[f"{number}.state.{name}.{key}"] = value.clone()
    save_file(tensors, out / "training_optimizers_more.safetensors", {"cases": json.dumps(cases)})


def averages(out):
    generator = torch.Generator().manual_seed(12)
    steps = 50
    values = torch.randn(steps + 1, 3, 2, generator=generator, dtype=torch.float64)
    tensors, configs = {"values": values}, [
        {},
        {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75, "decay": 0.9},
        {"use_ema_warmup": True, "inv_gamma": 4.0, "power": 0.5, "min_decay": 0.35, "update_after_step": 5},
    ]
    for number, config in enumerate(configs):
        parameter = nn.Parameter(values[0].clone())
        average = EMAModel([parameter], **config)
        path, decays = [], []
        for step in range(1, steps + 1):
            parameter.data.copy_(values[step])
            average.step([parameter])
            path.append(average.shadow_params[0].clone())
            decays.append(average.cur_decay_value)
        tensors[f"ema.{number}"] = torch.stack(path)
        tensors[f"ema.{number}.decay"] = torch.tensor(decays, dtype=torch.float64)

    # latent-diffusion counts its updates and stores its decay in float32.
    lit_configs = [{"decay": 0.9999, "use_num_updates": True}, {"decay": 0.6, "use_num_updates": True},
                   {"decay": 0.75, "use_num_updates": False}]
    for number, config in enumerate(lit_configs):
        decay = torch.tensor(config["decay"], dtype=torch.float32)
        num_updates = torch.tensor(0 if config["use_num_updates"] else -1, dtype=torch.int)
        shadow, path = values[0].clone(), []
        for step in range(1, steps + 1):
            now = decay
            if num_updates >= 0:
                num_updates += 1
                now = min(decay, (1 + num_updates) / (10 + num_updates))
            shadow = shadow - (1.0 - now) * (shadow - values[step])
            path.append(shadow.clone())
        tensors[f"lit.{number}"] = torch.stack(path)
    cases = {"ema": configs, "lit": lit_configs}
    save_file(tensors, out / "training_averages.safetensors", {"cases": json.dumps(cases)})


def gamma_of(sigma_rel):
    t = sigma_rel**-2
    return max(root.real for root in np.roots([1.0, 7.0, 16.0 - t, 12.0 - t]) if abs(root.imag) < 1e-9)


def products(step_a, gamma_a, step_b, gamma_b):
    """Returns the integral of the product of two profiles (gamma + 1) s^gamma / t^(gamma + 1), in closed form."""
    least = np.minimum(step_a, step_b)
    log = (gamma_a + gamma_b + 1) * np.log(least) - (gamma_a + 1) * np.log(step_a) - (gamma_b + 1) * np.log(step_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * np.exp(log)


def post_hoc(out):
    sigmas = np.array([0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.28, 1 / math.sqrt(12) - 1e-9])
    tensors = {"sigma_rel": torch.from_numpy(sigmas), "gamma": torch.tensor([gamma_of(s) for s in sigmas], dtype=torch.float64)}
    cases = []
    for steps, widths, wanted in [
        ([8, 16, 24, 32], [0.05, 0.1], (0.075, 32)),
        ([8, 16, 24, 32], [0.05, 0.1], (0.15, 24)),
        ([100, 200], [0.05, 0.25], (0.12, 200)),
        ([1000], [0.05, 0.1, 0.2], (0.07, 1000)),
        (list(range(16, 257, 16)), [0.05, 0.1], (0.07, 256)),
    ]:
        profiles = [(step, width) for step in steps for width in widths if step <= wanted[1]]
        t = np.array([float(step) for step, _ in profiles])
        g = np.array([gamma_of(width) for _, width in profiles])
        matrix = products(t[:, None], g[:, None], t[None, :], g[None, :])
        right = products(t, g, float(wanted[1]), gamma_of(wanted[0]))
        solution = np.linalg.solve(matrix, right)
        length = products(float(wanted[1]), gamma_of(wanted[0]), float(wanted[1]), gamma_of(wanted[0]))
        error = math.sqrt(max(0.0, 1 - (2 * solution @ right - solution @ matrix @ solution) / length))
        tensors[f"{len(cases)}.coefficients"] = torch.from_numpy(solution)
        tensors[f"{len(cases)}.relative_error"] = torch.tensor(error, dtype=torch.float64)
        cases.append({"profiles": profiles, "sigma_rel": wanted[0], "step": wanted[1]})
    save_file(tensors, out / "training_post_hoc_ema.safetensors", {"cases": json.dumps(cases)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    optimizers(out)
    averages(out)
    post_hoc(out)


if __name__ == "__main__":
    main()
