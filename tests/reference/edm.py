"""Golden tensors of EDM's preconditioning and loss, and of the learned log variances of EDM2 and latent diffusion."""

import argparse
import json
import math
from pathlib import Path

import torch
from diffusers import EDMEulerScheduler
from safetensors.torch import save_file


def network(x, c_noise):
    """A function of the sample and its timestep, used as the model."""
    return torch.sin(3 * x + c_noise.view(-1, 1, 1, 1)) + 0.25 * x * c_noise.view(-1, 1, 1, 1)


def preconditioning(tensors, sigma_data):
    """Computes the values of diffusers' scheduler, for one noise level after the other."""
    scheduler = EDMEulerScheduler(sigma_data=sigma_data)
    sigma, x0, noise = tensors["sigma"], tensors["x0"], tensors["noise"]
    noisy = x0 + sigma.view(-1, 1, 1, 1) * noise
    inputs = torch.stack([scheduler.precondition_inputs(x, s) for x, s in zip(noisy, sigma)])
    c_noise = scheduler.precondition_noise(sigma)
    output = network(inputs, c_noise)
    denoised = torch.stack([scheduler.precondition_outputs(x, f, s) for x, f, s in zip(noisy, output, sigma)])
    # Table 1 and appendix B of the paper, in its notation.
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    loss = weight * ((denoised - x0) ** 2).mean(dim=(1, 2, 3))
    name = f"{sigma_data}."
    one = torch.ones(1, dtype=torch.float64)
    tensors[name + "c_in"] = torch.stack([scheduler.precondition_inputs(one, s)[0] for s in sigma])
    tensors[name + "c_skip"] = torch.stack([scheduler.precondition_outputs(one, 0 * one, s)[0] for s in sigma])
    tensors[name + "c_out"] = torch.stack([scheduler.precondition_outputs(0 * one, one, s)[0] for s in sigma])
    tensors[name + "c_noise"] = c_noise
    tensors[name + "weight"] = weight
    tensors[name + "noisy"] = noisy
    tensors[name + "inputs"] = inputs
    tensors[name + "denoised"] = denoised
    tensors[name + "loss"] = loss
    return loss


def log_variance(tensors, loss):
    """Computes EDM2's MPFourier of c_noise, its linear layer and its loss, and latent diffusion's table."""
    generator = torch.Generator().manual_seed(12)
    channels = 16
    freqs = 2 * math.pi * torch.randn(channels, generator=generator, dtype=torch.float64)
    phases = 2 * math.pi * torch.rand(channels, generator=generator, dtype=torch.float64)
    weight = torch.randn(channels, generator=generator, dtype=torch.float64).requires_grad_()
    c_noise = tensors["0.5.c_noise"]
    features = math.sqrt(2) * torch.cos(c_noise.ger(freqs) + phases)
    u = features @ weight
    uncertain = loss / u.exp() + u
    uncertain.sum().backward()
    tensors |= {
        "fourier.freqs": freqs,
        "fourier.phases": phases,
        "fourier.weight": weight.detach(),
        "fourier.u": u.detach(),
        "fourier.loss": uncertain.detach(),
        "fourier.gradient": weight.grad,
    }
    table = torch.randn(10, generator=generator, dtype=torch.float64).requires_grad_()
    t = torch.tensor([9, 0, 3, 3])
    u = table[t]
    (loss[:4] / u.exp() + u).sum().backward()
    tensors |= {"table.logvar": table.detach(), "table.t": t, "table.u": u.detach(), "table.gradient": table.grad}


def validation(tensors):
    """Returns quantiles of the noise levels that a training draws."""
    position = torch.tensor([0.5, 0.05, 0.25, 0.9, 0.999], dtype=torch.float64)
    normal = torch.distributions.Normal(*torch.tensor([-1.2, 1.2], dtype=torch.float64))
    tensors["position"] = position
    tensors["position.sigma"] = normal.icdf(position).exp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(4)
    sigma = torch.tensor([1e-3, 0.002, 0.3, 0.5, 2.0, 17.0, 80.0], dtype=torch.float64)
    shape = (len(sigma), 2, 3, 3)
    x0 = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    tensors = {"sigma": sigma, "x0": x0, "noise": noise}
    loss = preconditioning(tensors, 0.5)
    preconditioning(tensors, 1.3)
    log_variance(tensors, loss)
    validation(tensors)
    save_file(tensors, out / "edm.safetensors", {"cases": json.dumps([0.5, 1.3])})


if __name__ == "__main__":
    main()
