"""Golden tensors of diffusers' training functions: losses, EMA, learning rate schedules, optimizers and trajectories."""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import (
    EMAModel,
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
    compute_snr,
)
from safetensors.torch import save_file
from torch import nn

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def target_of(scheduler, x0, noise, timesteps):
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return x0
    return scheduler.get_velocity(x0, noise, timesteps)


def snr_weights(scheduler, timesteps, gamma):
    """Returns the weight of train_text_to_image.py, and the same paper's weight for x_0 prediction."""
    snr = compute_snr(scheduler, timesteps)
    weights = torch.stack([snr, gamma * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
    kind = scheduler.config.prediction_type
    return weights / snr if kind == "epsilon" else weights / (snr + 1) if kind == "v_prediction" else weights


def huber_c_of(scheduler, timesteps, schedule, huber_c):
    if schedule == "constant":
        return torch.full(timesteps.shape, huber_c)
    if schedule == "exponential":
        alpha = -torch.log(torch.tensor(huber_c)) / scheduler.config.num_train_timesteps
        return torch.exp(-alpha * timesteps)
    alphas_cumprod = scheduler.alphas_cumprod[timesteps]
    sigmas = ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5
    return (1 - huber_c) / (1 + sigmas) ** 2 + huber_c


def per_sample_loss(scheduler, output, x0, noise, timesteps, loss_type="l2", schedule="constant", huber_c=0.1, gamma=None):
    target = target_of(scheduler, x0, noise, timesteps)
    if loss_type == "l2":
        loss = F.mse_loss(output.float(), target.float(), reduction="none")
    elif loss_type == "l1":
        loss = F.l1_loss(output.float(), target.float(), reduction="none")
    else:
        c = huber_c_of(scheduler, timesteps, schedule, huber_c).view(-1, *[1] * (x0.dim() - 1))
        loss = 2 * (torch.sqrt((output - target) ** 2 + c**2) - c)
        if loss_type == "huber":
            loss = c * loss
    loss = loss.mean(dim=list(range(1, loss.dim())))
    return loss if gamma is None else loss * snr_weights(scheduler, timesteps, gamma)


def objective(out):
    generator = torch.Generator().manual_seed(1)
    shape = (6, 2, 3, 4)
    x0, noise, output = (torch.randn(shape, generator=generator) for _ in range(3))
    timesteps = torch.tensor([0, 1, 17, 400, 998, 999])
    tensors = {"x0": x0, "noise": noise, "output": output, "timesteps": timesteps}
    cases = []

    def add(scheduler_config, **options):
        scheduler = DDPMScheduler(**scheduler_config)
        name = f"case.{len(cases)}"
        tensors[name] = per_sample_loss(scheduler, output, x0, noise, timesteps, **options)
        cases.append({"name": name, "scheduler": scheduler.to_json_string(), **options})

    for kind in PREDICTION_TYPES:
        for loss_type in ("l2", "l1", "huber", "smooth_l1"):
            add({"prediction_type": kind}, loss_type=loss_type)
        for schedule in ("exponential", "snr"):
            add({"prediction_type": kind}, loss_type="huber", schedule=schedule, huber_c=0.2)
        for gamma in (1.0, 5.0):
            add({"prediction_type": kind}, gamma=gamma)
            add({"prediction_type": kind, "beta_schedule": "squaredcos_cap_v2"}, gamma=gamma, loss_type="l1")
        if kind != "epsilon":
            add({"prediction_type": kind, "rescale_betas_zero_snr": True}, gamma=5.0)

    for beta_schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        tensors[f"snr.{beta_schedule}"] = compute_snr(DDPMScheduler(beta_schedule=beta_schedule), torch.arange(1000))
    for scheme in ("logit_normal", "mode", "none"):
        tensors[f"density.{scheme}"] = compute_density_for_timestep_sampling(
            scheme, 9, logit_mean=0.1, logit_std=0.8, mode_scale=1.29, generator=torch.Generator().manual_seed(3)
        )
    tensors["sigmas"] = torch.linspace(0.05, 0.95, 7)
    for scheme in ("sigma_sqrt", "cosmap", "none"):
        tensors[f"weighting.{scheme}"] = compute_loss_weighting_for_sd3(scheme, tensors["sigmas"])
    save_file(tensors, out / "training_objective.safetensors", {"cases": json.dumps(cases)})


def ema(out):
    generator = torch.Generator().manual_seed(2)
    steps = 50
    values = {name: torch.randn(steps + 1, *shape, generator=generator) for name, shape in {"a": (3, 4), "b": (5,)}.items()}
    tensors = {f"values.{name}": value for name, value in values.items()}
    configs = [
        {},
        {"use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75},
        {"use_ema_warmup": True, "inv_gamma": 2.0, "power": 2 / 3, "decay": 0.8, "min_decay": 0.1, "update_after_step": 7},
        {"decay": 0.5, "min_decay": 0.3, "update_after_step": 3},
    ]
    for number, config in enumerate(configs):
        parameters = [nn.Parameter(values["a"][0].clone()), nn.Parameter(values["b"][0].clone(), requires_grad=number != 1)]
        average = EMAModel(parameters, **config)
        decays, path_a, path_b = [], [], []
        for step in range(1, steps + 1):
            for parameter, name in zip(parameters, ("a", "b")):
                parameter.data.copy_(values[name][step])
            average.step(parameters)
            decays.append(average.cur_decay_value)
            path_a.append(average.shadow_params[0].clone())
            path_b.append(average.shadow_params[1].clone())
        tensors[f"{number}.decay"] = torch.tensor(decays, dtype=torch.float64)
        tensors[f"{number}.a"] = torch.stack(path_a)
        tensors[f"{number}.b"] = torch.stack(path_b)
    save_file(tensors, out / "training_ema.safetensors", {"configs": json.dumps(configs)})


def lr_schedules(out):
    cases = [
        ("constant", {}),
        ("constant_with_warmup", {"num_warmup_steps": 7}),
        ("constant_with_warmup", {"num_warmup_steps": 0}),
        ("linear", {"num_warmup_steps": 10, "num_training_steps": 45}),
        ("linear", {"num_warmup_steps": 0, "num_training_steps": 60}),
        ("linear", {"num_warmup_steps": 50, "num_training_steps": 20}),
        ("cosine", {"num_warmup_steps": 10, "num_training_steps": 45}),
        ("cosine", {"num_warmup_steps": 5, "num_training_steps": 40, "num_cycles": 3}),
        ("cosine_with_restarts", {"num_warmup_steps": 10, "num_training_steps": 50}),
        ("cosine_with_restarts", {"num_warmup_steps": 4, "num_training_steps": 55, "num_cycles": 3}),
        ("polynomial", {"num_warmup_steps": 10, "num_training_steps": 45}),
        ("polynomial", {"num_warmup_steps": 3, "num_training_steps": 50, "power": 2.5, "lr_init": 1e-6}),
        ("polynomial", {"num_warmup_steps": 10, "num_training_steps": 5}),
        ("piecewise_constant", {"step_rules": "1:10,0.1:20, 0.01:30,0.005"}),
        ("piecewise_constant", {"step_rules": "0.5:20,1:5,2:5,3"}),
        ("piecewise_constant", {"step_rules": "0.25"}),
    ]
    tensors, described = {}, []
    for number, (name, options) in enumerate(cases):
        arguments = dict(options)
        optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=arguments.pop("lr_init", 1e-3))
        factor = get_scheduler(name, optimizer, **arguments).lr_lambdas[0]
        tensors[f"{number}"] = torch.tensor([float(factor(step)) for step in range(61)], dtype=torch.float64)
        described.append({"name": name, **options})
    save_file(tensors, out / "training_lr.safetensors", {"cases": json.dumps(described)})


def optimizers(out):
    generator = torch.Generator().manual_seed(4)
    steps = 20
    start = {"a": torch.randn(4, 3, generator=generator), "b": torch.randn(7, generator=generator)}
    grads = {"a": torch.randn(steps, 4, 3, generator=generator), "b": torch.randn(steps, 7, generator=generator)}
    tensors = {f"start.{k}": v for k, v in start.items()} | {f"grads.{k}": v for k, v in grads.items()}
    cases = [
        {"type": "adamw", "lr": 1e-2, "beta1": 0.95, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2},
        {"type": "adamw", "lr": 3e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.0, "amsgrad": True},
        {"type": "adam", "lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-2},
        {"type": "sgd", "lr": 1e-2, "weight_decay": 0.0},
        {"type": "sgd", "lr": 1e-2, "weight_decay": 1e-2, "momentum": 0.9, "nesterov": True},
        {"type": "sgd", "lr": 1e-2, "weight_decay": 1e-2, "momentum": 0.8, "dampening": 0.1},
    ]
    classes = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    for number, case in enumerate(cases):
        options = {k: v for k, v in case.items() if k not in ("type", "beta1", "beta2")}
        if "beta1" in case:
            options["betas"] = (case["beta1"], case["beta2"])
        a, b = (nn.Parameter(start[name].clone()) for name in ("a", "b"))
        # The second group overrides options, and its parameter has no gradient in the first steps.
        optimizer = classes[case["type"]]([{"params": [a]}, {"params": [b], "lr": 5e-3, "weight_decay": 0.1}], **options)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        path_a, path_b = [], []
        for step in range(steps):
            a.grad = grads["a"][step].clone()
            b.grad = grads["b"][step].clone() if step >= 3 else None
            optimizer.step()
            schedule.step()
            path_a.append(a.detach().clone())
            path_b.append(b.detach().clone())
        tensors[f"{number}.a"] = torch.stack(path_a)
        tensors[f"{number}.b"] = torch.stack(path_b)

    clips = []
    for number, (max_norm, norm_type) in enumerate([(1.0, 2.0), (100.0, 2.0), (0.5, 1.0), (0.1, float("inf"))]):
        a, b = (nn.Parameter(start[name].clone()) for name in ("a", "b"))
        a.grad, b.grad = grads["a"][0].clone(), grads["b"][0].clone()
        tensors[f"clip.{number}.norm"] = torch.nn.utils.clip_grad_norm_([a, b], max_norm, norm_type)
        tensors[f"clip.{number}.a"], tensors[f"clip.{number}.b"] = a.grad, b.grad
        clips.append({"max_norm": max_norm, "norm_type": norm_type if norm_type != float("inf") else "inf"})

    # Loss scaling: overflows at steps 2 and 9, growth every 3 steps.
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scales, values = [], []
    for step in range(14):
        optimizer.zero_grad()
        loss = (parameter * torch.tensor([1.0, 2.0, float("inf") if step in (2, 9) else 3.0])).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        values.append(parameter.detach().clone())
    tensors["scaler.scale"] = torch.tensor(scales)
    tensors["scaler.parameter"] = torch.stack(values)
    # One entry, since safetensors writes several entries in no fixed order.
    cases = {"optimizers": cases, "clips": clips}
    save_file(tensors, out / "training_optimizer.safetensors", {"cases": json.dumps(cases)})


class TinyNet(nn.Module):
    """The model of tests/training/tiny_model.h."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(1, 4, 3, padding=1)
        self.time = nn.Linear(1, 4)
        self.conv_out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, sample, timesteps):
        time = self.time((timesteps.to(sample.dtype) / 1000)[:, None])
        return self.conv_out(F.silu(self.conv_in(sample) + time[:, :, None, None]))


def weight_of(weighting, prediction_type, signal, noise):
    """Converts the published weight of the error of epsilon to the other prediction types by the ratio of the errors."""
    snr = signal / noise
    weight = {
        "none": torch.ones_like(snr),
        "min_snr": torch.minimum(snr, torch.full_like(snr, 5.0)) / snr,
        "p2": (1.0 + snr) ** -1.0,
        "debiased": snr**-0.5,
    }[weighting]
    if weighting == "none" or prediction_type == "epsilon":
        return weight
    # d epsilon = sqrt(SNR) d x_0 = sqrt(signal) d v = sqrt(signal) d flow
    return weight * (snr if prediction_type == "sample" else signal)


def trajectories(out):
    steps, batch = 20, 4
    generator = torch.Generator().manual_seed(5)
    # Two batches per step; the runs without accumulation use the first.
    shape = (steps, 2, batch, 1, 6, 6)
    x0, noise = torch.rand(shape, generator=generator) * 2 - 1, torch.randn(shape, generator=generator)
    timesteps = torch.randint(0, 1000, (steps, 2, batch), generator=generator)
    tensors = {"x0": x0, "noise": noise, "timesteps": timesteps}
    torch.manual_seed(6)
    start = TinyNet().state_dict()
    tensors |= {f"start.{k}": v.clone() for k, v in start.items()}
    cases = []

    def noised(scheduler, kind, x, n, t):
        """Returns x_t, the model's timestep, and the squared factors of signal and noise."""
        if kind == "flow_prediction":
            told = (t + 1).to(x.dtype)
            sigma = (told / 1000).view(-1, 1, 1, 1)
            exact = (t + 1).double() / 1000
            return (1 - sigma) * x + sigma * n, told, (1 - exact) ** 2, exact**2
        abar = scheduler.alphas_cumprod[t].double()
        return scheduler.add_noise(x, n, t), t, abar, 1 - abar

    def run(kind, weighting, mode, dtype):
        scheduler = DDPMScheduler(prediction_type="epsilon" if kind == "flow_prediction" else kind)
        model = TinyNet().to(dtype)
        model.load_state_dict(start)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.95, 0.999), weight_decay=1e-2, eps=1e-8)
        schedule = get_scheduler("cosine", optimizer, num_warmup_steps=5, num_training_steps=steps)
        average = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        losses = []
        for step in range(steps):
            batches = 2 if mode == "accumulated" else 1
            total = 0.0
            for index in range(batches):
                x, n, t = x0[step, index].to(dtype), noise[step, index].to(dtype), timesteps[step, index]
                noisy, told, signal_share, noise_share = noised(scheduler, kind, x, n, t)
                target = n - x if kind == "flow_prediction" else target_of(scheduler, x, n, t)
                loss = F.mse_loss(model(noisy, told), target, reduction="none").mean(dim=[1, 2, 3])
                loss = (loss * weight_of(weighting, kind, signal_share, noise_share).to(dtype)).mean() / batches
                loss.backward()
                total += loss.item()
            if mode == "clipped":
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            average.step(model.parameters())
            losses.append(total)
        return losses, model, average

    for dtype in (torch.float32, torch.float64):
        for kind in (*PREDICTION_TYPES, "flow_prediction"):
            for weighting in ("none", "min_snr", "p2", "debiased"):
                for mode in ("plain", "clipped", "accumulated"):
                    name = f"{kind}.{weighting}.{mode}.{str(dtype).removeprefix('torch.')}"
                    losses, model, average = run(kind, weighting, mode, dtype)
                    tensors[f"{name}.losses"] = torch.tensor(losses, dtype=torch.float64)
                    tensors[f"{name}.model"] = torch.cat([p.detach().flatten() for p in model.parameters()])
                    tensors[f"{name}.ema"] = torch.cat([p.flatten() for p in average.shadow_params])
                    cases.append({"name": name, "prediction_type": kind, "weighting": weighting, "mode": mode,
                                  "dtype": str(dtype).removeprefix("torch.")})
    save_file(tensors, out / "training_trajectory.safetensors", {"cases": json.dumps(cases)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    objective(out)
    ema(out)
    lr_schedules(out)
    optimizers(out)
    trajectories(out)


if __name__ == "__main__":
    main()
