"""Golden tensors of loss weightings, of the hybrid loss with a learned variance, and of the variational bound."""

import argparse
import json
import math
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from safetensors.torch import save_file
from torch.distributions import Normal, kl_divergence

# Every 27th of the 1000 timesteps, including the first and the last.
SHOWN = slice(0, 1000, 27)


def tables(scheduler):
    abar = scheduler.alphas_cumprod.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    beta = 1 - abar / before
    posterior = beta * (1 - before) / (1 - abar)
    posterior[0] = posterior[1]
    return abar, before, beta, posterior


def weights_of_epsilon(scheduler):
    """Computes each weight as in its paper or code, for an error of epsilon."""
    abar, before, beta, _ = tables(scheduler)
    snr = abar / (1 - abar)
    sigma = snr**-0.5  # sigma of the variance-exploding process in EDM
    # LDM's register_schedule: beta^2 / (2 sigma^2 alpha (1 - abar)); the first value is copied from the second.
    posterior = beta * (1 - before) / (1 - abar)
    lvlb = beta**2 / (2 * posterior * (1 - beta) * (1 - abar))
    lvlb[0] = lvlb[1]
    return {
        "min_snr": torch.clamp(snr, max=5.0) / snr,
        "soft_min_snr": (snr * 5.0 / (snr + 5.0)) / snr,
        "p2": 1 / (0.7 + snr) ** 1.3,
        "edm": (sigma**2 + 0.6**2) / (sigma * 0.6) ** 2 / snr,
        "debiased": 1 / snr.sqrt(),
        "truncated_snr": torch.clamp(snr, min=1.0) / snr,
        "lvlb": lvlb,
    }


def weightings(tensors):
    for schedule in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        scheduler = DDPMScheduler(beta_schedule=schedule)
        abar = scheduler.alphas_cumprod.double()
        for name, of_epsilon in weights_of_epsilon(scheduler).items():
            tensors[f"{schedule}.{name}.epsilon"] = of_epsilon[SHOWN].clone()
            tensors[f"{schedule}.{name}.sample"] = (of_epsilon * abar / (1 - abar))[SHOWN].clone()
            tensors[f"{schedule}.{name}.v_prediction"] = (of_epsilon * abar)[SHOWN].clone()


def decoder(x, mean, scale):
    """Returns -log of the probability that a Gaussian assigns to the level of x, one of 256 in [-1, 1]."""
    normal = Normal(mean, scale)
    mass = normal.cdf(x + 1 / 255) - normal.cdf(x - 1 / 255)
    mass = torch.where(x < -0.999, normal.cdf(x + 1 / 255), mass)
    mass = torch.where(x > 0.999, 1 - normal.cdf(x - 1 / 255), mass)
    return -mass.log()


def bound(tensors):
    generator = torch.Generator().manual_seed(8)
    t = torch.tensor([0, 1, 5, 250, 998, 999])
    shape = (len(t), 2, 3, 3)
    x0 = (torch.randint(0, 256, shape, generator=generator).double() / 127.5) - 1
    x0[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    output = torch.randn((len(t), 4, 3, 3), generator=generator, dtype=torch.float64)
    tensors |= {"x0": x0, "noise": noise, "output": output, "timesteps": t}
    cases = []
    for kind in ("epsilon", "sample", "v_prediction"):
        for variance_type in ("fixed_small", "fixed_large", "learned_range", "learned"):
            scheduler = DDPMScheduler(prediction_type=kind, variance_type=variance_type)
            abar, before, beta, posterior = (table[t].view(-1, 1, 1, 1) for table in tables(scheduler))
            # For "learned" variances, the output is in the range of variances.
            raw = output.clone()
            if variance_type == "learned":
                raw[:, 2:] = posterior * (1 + output[:, 2:].abs())
            x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
            target = {
                "epsilon": noise,
                "sample": x0,
                "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x0,
            }[kind]
            # The prediction at t = 0 is good, since the probability of the level of x_0 would otherwise underflow.
            raw[0, :2] = target[0] + 0.01 * output[0, :2]
            raw.requires_grad_()
            prediction = raw[:, :2]
            predicted_x0 = {
                "epsilon": (x_t - (1 - abar).sqrt() * prediction) / abar.sqrt(),
                "sample": prediction,
                "v_prediction": abar.sqrt() * x_t - (1 - abar).sqrt() * prediction,
            }[kind]
            mean = lambda x: (before.sqrt() * beta * x + (1 - beta).sqrt() * (1 - before) * x_t) / (1 - abar)  # noqa: E731
            variance = {
                "fixed_small": posterior.expand(shape),
                "fixed_large": torch.where(t.view(-1, 1, 1, 1) == 0, tables(scheduler)[3][1], beta).expand(shape),
                "learned_range": torch.exp(
                    (raw[:, 2:] + 1) / 2 * beta.log() + (1 - raw[:, 2:]) / 2 * posterior.log()
                ),
                "learned": raw[:, 2:],
            }[variance_type]

            def nats(predicted):
                true = Normal(mean(x0)[1:], posterior.sqrt().expand(shape)[1:])
                kl = kl_divergence(true, Normal(predicted[1:], variance[1:].sqrt()))
                first = decoder(x0[:1], predicted[:1], variance[:1].sqrt())
                return torch.cat([first, kl]).mean(dim=(1, 2, 3))

            name = f"{kind}.{variance_type}"
            tensors[f"{name}.output"] = raw.detach().clone()
            tensors[f"{name}.bits"] = (nats(mean(predicted_x0)) / math.log(2)).detach()
            if variance_type.startswith("learned"):
                # L_simple + T / 1000 L_vlb, where L_vlb has no gradient of the mean.
                hybrid = ((prediction - target) ** 2).mean(dim=(1, 2, 3)) + nats(mean(predicted_x0).detach()) / math.log(2)
                hybrid.mean().backward()
                tensors[f"{name}.hybrid"] = hybrid.detach()
                tensors[f"{name}.gradient"] = raw.grad
            cases.append({"name": name, "prediction_type": kind, "variance_type": variance_type})
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tensors = {}
    weightings(tensors)
    cases = bound(tensors)
    save_file(tensors, out / "objective.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
