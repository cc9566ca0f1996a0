"""Golden tensors of the training of autoencoders: LPIPS, the PatchGAN discriminator, the losses of latent-diffusion, and short
trainings of AutoencoderKL and VQModel.

The formulas are those of the Python package lpips 0.1.4 (`lpips.LPIPS`), taming-transformers (`NLayerDiscriminator`, `ActNorm`,
`weights_init`, `VQLPIPSWithDiscriminator`) and latent-diffusion (`LPIPSWithDiscriminator`), written out here. Weights are drawn
from seeds: the layers are made in the order of the C++ classes.

Writes autoencoder_training.safetensors to the folder given by --out.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, VQModel
from gradients import gradients
from safetensors.torch import save_file
from torch import nn

LEAST_SIDE = 64
LPIPS_SEED, DISC_SEED, MODEL_SEED, DATA_SEED = 21, 22, 23, 24
# Channels, kernel, stride and padding of each convolution; numbers are kernel sizes of max pools. "|" ends a slice.
FEATURES = {
    "alex": [(64, 11, 4, 2), "|", 3, (192, 5, 1, 2), "|", 3, (384, 3, 1, 1), "|", (256, 3, 1, 1), "|", (256, 3, 1, 1), "|"],
    "vgg": [(64, 3, 1, 1), (64, 3, 1, 1), "|", 2, (128, 3, 1, 1), (128, 3, 1, 1), "|", 2, *[(256, 3, 1, 1)] * 3, "|", 2,
            *[(512, 3, 1, 1)] * 3, "|", 2, *[(512, 3, 1, 1)] * 3, "|"],
}


class LPIPS(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[None, :, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[None, :, None, None])
        self.slices, self.lins, channels = nn.ModuleList(), nn.ModuleList(), 3
        widths, layers = [], []
        for layer in FEATURES[net]:
            if layer == "|":
                self.slices.append(nn.Sequential(*layers))
                widths.append(channels)
                layers = []
            elif isinstance(layer, int):
                layers.append(nn.MaxPool2d(layer, 2))
            else:
                layers += [nn.Conv2d(channels, layer[0], *layer[1:]), nn.ReLU()]
                channels = layer[0]
        for width in widths:
            self.lins.append(nn.Conv2d(width, 1, 1, bias=False))
        self.requires_grad_(False)

    def features(self, images):
        height, width = images.shape[2:]
        side = min(height, width)
        if side < LEAST_SIDE:
            size = [(length * LEAST_SIDE + side - 1) // side for length in (height, width)]
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
        hidden, outputs = (images - self.shift) / self.scale, []
        for part in self.slices:
            hidden = part(hidden)
            outputs.append(hidden / (torch.sqrt(torch.sum(hidden**2, dim=1, keepdim=True)) + 1e-10))
        return outputs

    def forward(self, x, y):
        pairs = zip(self.features(x), self.features(y), self.lins)
        return sum(lin((a - b) ** 2).mean([2, 3], keepdim=True) for a, b, lin in pairs)


class ActNorm(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, num_features, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, num_features, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    def forward(self, input):
        if self.training and self.initialized.item() == 0:
            with torch.no_grad():
                flatten = input.permute(1, 0, 2, 3).contiguous().view(input.shape[1], -1)
                self.loc.data.copy_(-flatten.mean(1)[None, :, None, None])
                self.scale.data.copy_(1 / (flatten.std(1)[None, :, None, None] + 1e-6))
            self.initialized.fill_(1)
        return self.scale * (input + self.loc)


def weights_init(m):
    name = m.__class__.__name__
    if name.find("Conv") != -1:
        nn.init.normal_(m.weight.data, 0.0, 0.02)
    elif name.find("BatchNorm") != -1:
        nn.init.normal_(m.weight.data, 1.0, 0.02)
        nn.init.constant_(m.bias.data, 0)


class NLayerDiscriminator(nn.Module):
    def __init__(self, input_nc=3, ndf=64, n_layers=3, use_actnorm=False):
        super().__init__()
        norm = ActNorm if use_actnorm else nn.BatchNorm2d
        sequence = [nn.Conv2d(input_nc, ndf, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        factor = 1
        for n in range(1, n_layers + 1):
            previous, factor = factor, min(2**n, 8)
            stride = 2 if n < n_layers else 1
            sequence += [nn.Conv2d(ndf * previous, ndf * factor, 4, stride, 1, bias=use_actnorm), norm(ndf * factor),
                         nn.LeakyReLU(0.2, True)]
        sequence += [nn.Conv2d(ndf * factor, 1, 4, 1, 1)]
        self.main = nn.Sequential(*sequence)

    def forward(self, input):
        return self.main(input)


def make_discriminator(**config):
    torch.manual_seed(DISC_SEED)
    return NLayerDiscriminator(**config).apply(weights_init).train()


def make_lpips(net):
    torch.manual_seed(LPIPS_SEED)
    return LPIPS(net).eval()


def hinge_d_loss(logits_real, logits_fake):
    return 0.5 * (torch.mean(F.relu(1.0 - logits_real)) + torch.mean(F.relu(1.0 + logits_fake)))


def vanilla_d_loss(logits_real, logits_fake):
    return 0.5 * (torch.mean(F.softplus(-logits_real)) + torch.mean(F.softplus(logits_fake)))


def kl_of(moments):
    mean, logvar = torch.chunk(moments, 2, dim=1)
    logvar = torch.clamp(logvar, -30.0, 20.0)
    return 0.5 * torch.sum(mean**2 + torch.exp(logvar) - 1.0 - logvar, dim=[1, 2, 3])


class Loss(nn.Module):
    """LPIPSWithDiscriminator (`kind` "kl") and VQLPIPSWithDiscriminator ("vq")."""

    def __init__(self, kind, lpips, discriminator, disc_start, logvar_init=0.0, kl_weight=1.0, codebook_weight=1.0,
                 disc_factor=1.0, disc_weight=1.0, perceptual_weight=1.0, disc_loss="hinge", pixel_loss="l1"):
        super().__init__()
        self.kind, self.lpips, self.discriminator, self.disc_start = kind, lpips, discriminator, disc_start
        self.kl_weight, self.codebook_weight, self.perceptual_weight = kl_weight, codebook_weight, perceptual_weight
        self.disc_factor, self.disc_weight, self.pixel_loss = disc_factor, disc_weight, pixel_loss
        self.d_loss = hinge_d_loss if disc_loss == "hinge" else vanilla_d_loss
        self.logvar = nn.Parameter(torch.ones(size=()) * logvar_init)

    def judge(self, images, cond):
        return self.discriminator(images.contiguous() if cond is None else torch.cat((images, cond), dim=1))

    def factor(self, step):
        return self.disc_factor if step >= self.disc_start else 0.0

    def generator(self, inputs, reconstructions, regulariser, step, last_layer, cond=None):
        """`regulariser` is the divergence of each sample, or the loss of the codebook."""
        difference = inputs - reconstructions
        rec_loss = torch.abs(difference) if self.pixel_loss == "l1" else difference**2
        if self.perceptual_weight > 0:
            rec_loss = rec_loss + self.perceptual_weight * self.lpips(inputs, reconstructions)
        if self.kind == "kl":
            nll_loss = torch.sum(rec_loss / torch.exp(self.logvar) + self.logvar) / inputs.shape[0]
            regular = torch.sum(regulariser) / regulariser.shape[0]
            regular_weight = self.kl_weight
        else:
            nll_loss, regular, regular_weight = torch.mean(rec_loss), regulariser.mean(), self.codebook_weight
        g_loss = -torch.mean(self.judge(reconstructions, cond))
        nll_grads = torch.autograd.grad(nll_loss, last_layer, retain_graph=True)[0]
        g_grads = torch.autograd.grad(g_loss, last_layer, retain_graph=True)[0]
        d_weight = torch.norm(nll_grads) / (torch.norm(g_grads) + 1e-4)
        d_weight = torch.clamp(d_weight, 0.0, 1e4).detach() * self.disc_weight
        loss = nll_loss + regular_weight * regular + d_weight * self.factor(step) * g_loss
        return loss, nll_loss, regular, g_loss, d_weight

    def discriminate(self, inputs, reconstructions, step, cond=None):
        logits_real, logits_fake = (self.judge(images.detach(), cond) for images in (inputs, reconstructions))
        return self.factor(step) * self.d_loss(logits_real, logits_fake)


def uniform(generator, *shape):
    return torch.rand(shape, generator=generator) * 2 - 1


def lpips_cases(tensors):
    cases = []
    for net, shape in (("alex", (2, 3, 64, 80)), ("vgg", (1, 3, 64, 64)), ("alex", (2, 1, 20, 28)), ("vgg", (1, 1, 28, 28))):
        name = f"lpips.{net}.{'x'.join(map(str, shape))}"
        generator = torch.Generator().manual_seed(DATA_SEED)
        model = make_lpips(net).double()
        x, y = (uniform(generator, *shape).double().requires_grad_(True) for _ in range(2))
        value = model(x, y)
        (value.flatten() * torch.arange(1, shape[0] + 1)).sum().backward()
        tensors |= {f"{name}.value": value.detach(), f"{name}.grad_x": x.grad.float(), f"{name}.grad_y": y.grad.float()}
        cases.append({"name": name, "net": net, "shape": list(shape)})
    return cases


def discriminator_cases(tensors):
    cases = []
    for config in ({"input_nc": 3, "ndf": 4, "n_layers": 2}, {"input_nc": 1, "ndf": 3, "n_layers": 3},
                   {"input_nc": 3, "ndf": 4, "n_layers": 2, "use_actnorm": True}, {"input_nc": 2, "ndf": 5, "n_layers": 1}):
        name = f"discriminator.{len(cases)}"
        model = make_discriminator(**config)
        tensors |= {f"{name}.initial.{key}": value.clone() for key, value in model.state_dict().items()}
        model.double()
        generator = torch.Generator().manual_seed(DATA_SEED)
        first, second = (uniform(generator, 3, config["input_nc"], 48, 40).double().requires_grad_(True) for _ in range(2))
        tensors[f"{name}.first"] = model(first).detach()
        output = model(second)
        (output * torch.arange(output.numel()).view(output.shape)).mean().backward()
        tensors[f"{name}.second"] = output.detach()
        tensors[f"{name}.grad_input"] = second.grad.float()
        gradients(name, model, tensors)
        tensors |= {f"{name}.buffer.{key}": value.clone() for key, value in model.named_buffers()}
        tensors[f"{name}.eval"] = model.eval()(second).detach()
        cases.append({"name": name, "config": config, "keys": list(model.state_dict())})
    return cases


def loss_cases(tensors):
    generator = torch.Generator().manual_seed(DATA_SEED)
    given = {
        "inputs": uniform(generator, 2, 3, 16, 16),
        "hidden": uniform(generator, 2, 4, 16, 16),
        "last_layer": 0.3 * uniform(generator, 3, 4, 3, 3),
        "moments": uniform(generator, 2, 8, 4, 4),
        "cond": uniform(generator, 2, 2, 16, 16),
    }
    tensors |= {f"loss.{name}": value for name, value in given.items()}
    logits = uniform(generator, 2, 1, 3, 3), uniform(generator, 2, 1, 3, 3)
    tensors |= {"loss.logits_real": logits[0], "loss.logits_fake": logits[1],
                "loss.hinge": hinge_d_loss(*logits), "loss.vanilla": vanilla_d_loss(*logits)}
    table = [
        {"kind": "kl", "step": 7, "loss": {"disc_start": 5, "logvar_init": 0.3, "kl_weight": 0.01, "disc_weight": 0.5}},
        {"kind": "kl", "step": 4, "loss": {"disc_start": 5, "kl_weight": 1e-6, "perceptual_weight": 0.7}},
        {"kind": "kl", "step": 5, "use_actnorm": True,
         "loss": {"disc_start": 5, "disc_factor": 0.7, "perceptual_weight": 0.0, "disc_loss": "vanilla", "pixel_loss": "l2"}},
        {"kind": "kl", "step": 0, "conditional": True, "loss": {"disc_start": 0, "perceptual_weight": 0.0}},
        {"kind": "vq", "step": 7, "loss": {"disc_start": 5, "codebook_weight": 0.8, "disc_weight": 0.6}},
        {"kind": "vq", "step": 4, "loss": {"disc_start": 5, "disc_loss": "vanilla"}},
        {"kind": "vq", "step": 5, "use_actnorm": True,
         "loss": {"disc_start": 5, "perceptual_weight": 0.0, "pixel_loss": "l2", "disc_factor": 0.5}},
    ]
    for number, case in enumerate(table):
        name = case["name"] = f"loss.{number}"
        is_conditional = case.get("conditional", False)
        disc = make_discriminator(input_nc=5 if is_conditional else 3, ndf=4, n_layers=2,
                                  use_actnorm=case.get("use_actnorm", False))
        loss = Loss(case["kind"], make_lpips("alex"), disc, **case["loss"]).double()
        inputs, cond = given["inputs"].double(), given["cond"].double() if is_conditional else None
        hidden, last_layer, moments = (given[key].double().requires_grad_(True) for key in ("hidden", "last_layer", "moments"))
        reconstructions = F.conv2d(hidden, last_layer, padding=1)
        regulariser = kl_of(moments) if case["kind"] == "kl" else (moments**2).mean()
        terms = loss.generator(inputs, reconstructions, regulariser, case["step"], last_layer, cond)
        terms[0].backward()
        tensors[f"{name}.terms"] = torch.stack([term.detach() for term in terms])
        for key, leaf in (("hidden", hidden), ("last_layer", last_layer), ("moments", moments), ("logvar", loss.logvar)):
            tensors[f"{name}.grad_{key}"] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
        disc.zero_grad()
        d_loss = loss.discriminate(inputs, reconstructions, case["step"], cond)
        d_loss.backward()
        tensors[f"{name}.d_loss"] = d_loss.detach()
        gradients(name, disc, tensors)
    return table


AUTOENCODER = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "norm_num_groups": 2,
    "sample_size": 16,
    # An attention's key bias has an exactly zero gradient, whose rounding noise Adam would amplify.
    "mid_block_add_attention": False,
}
STEPS, BATCH, SEED = 10, 2, 3


def train(case, images, dtype):
    torch.manual_seed(MODEL_SEED)
    model = AutoencoderKL(**AUTOENCODER) if case["kind"] == "kl" else VQModel(**AUTOENCODER, num_vq_embeddings=16)
    disc = make_discriminator(input_nc=3, ndf=4, n_layers=2, use_actnorm=case.get("use_actnorm", False))
    loss = Loss(case["kind"], make_lpips("alex"), disc, **case["loss"]).to(dtype)
    model.to(dtype).train()
    options = {"lr": 1e-3, "betas": (0.5, 0.9), "eps": 1e-8}
    of_model = torch.optim.Adam([*model.parameters(), *([loss.logvar] if case["kind"] == "kl" else [])], **options)
    of_disc = torch.optim.Adam(disc.parameters(), **options)
    generator = torch.Generator().manual_seed(SEED)

    def reconstruct(inputs):
        """The reconstructions and what regularises the latents."""
        if case["kind"] == "kl":
            posterior = model.encode(inputs).latent_dist
            return model.decode(posterior.sample(generator)).sample, posterior.kl()
        quantized, codebook_loss, _ = model.quantize(model.encode(inputs).latents)
        return model.decode(quantized, force_not_quantize=True).sample, codebook_loss

    rows = []
    for step in range(STEPS):
        inputs = images[step].to(dtype)
        terms = loss.generator(inputs, *reconstruct(inputs), step, model.decoder.conv_out.weight)
        of_model.zero_grad()
        terms[0].backward()
        of_model.step()
        d_loss = torch.zeros(())
        # Before disc_start the discriminator is not trained, and draws nothing.
        if step >= loss.disc_start:
            d_loss = loss.discriminate(inputs, reconstruct(inputs)[0], step)
            of_disc.zero_grad()
            d_loss.backward()
            of_disc.step()
        else:
            # It is not asked either: its statistics are those of the steps from disc_start on.
            reset_statistics(disc)
            terms = (*terms[:3], torch.zeros(()), torch.zeros(()))
        rows.append(torch.stack([value.detach().double() for value in (*terms, d_loss)]))
    flat = [parameter.detach().flatten() for parameter in model.parameters()]
    if case["kind"] == "kl":
        flat.append(loss.logvar.detach().flatten())
    state = [value.flatten().to(dtype) for value in disc.state_dict().values()]
    return torch.stack(rows), torch.cat(flat), torch.cat(state)


def reset_statistics(disc):
    for module in disc.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
        if isinstance(module, ActNorm):
            module.initialized.zero_()
            module.loc.data.zero_()
            module.scale.data.fill_(1)


def trajectories(tensors):
    generator = torch.Generator().manual_seed(DATA_SEED)
    images = uniform(generator, STEPS, BATCH, 3, 16, 16)
    tensors["trajectory.images"] = images
    table = [
        {"kind": "kl", "loss": {"disc_start": 3, "kl_weight": 1e-3, "disc_weight": 0.5}},
        {"kind": "kl", "use_actnorm": True,
         "loss": {"disc_start": 0, "perceptual_weight": 0.0, "disc_loss": "vanilla", "pixel_loss": "l2", "logvar_init": 0.5}},
        {"kind": "vq", "loss": {"disc_start": 3, "disc_weight": 0.8}},
        {"kind": "vq", "use_actnorm": True, "loss": {"disc_start": 20, "perceptual_weight": 0.5, "codebook_weight": 0.7}},
    ]
    for number, case in enumerate(table):
        name = case["name"] = f"trajectory.{number}"
        results = {}
        for dtype in (torch.float32, torch.float64):
            key = f"{name}.{str(dtype).removeprefix('torch.')}"
            results[dtype] = train(case, images, dtype)
            tensors |= dict(zip((f"{key}.values", f"{key}.model", f"{key}.discriminator"), results[dtype]))
        if case["kind"] == "vq":
            # No draws: the two dtypes must agree, or rounding would decide which code is the nearest.
            for narrow, wide in zip(*results.values()):
                assert torch.allclose(narrow.double(), wide.double(), rtol=1e-4, atol=1e-4), name
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tensors, cases = {}, {}
    for title, make in (("lpips", lpips_cases), ("discriminator", discriminator_cases), ("loss", loss_cases),
                        ("trajectory", trajectories)):
        cases[title] = make(tensors)
    assert all(value.isfinite().all() for value in tensors.values())
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    save_file(tensors, out / "autoencoder_training.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main()
