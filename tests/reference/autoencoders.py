"""Golden tensors of AutoencoderKL and VQModel: forward, backward, initial weights, tiles, samples and saved folders of
Python diffusers 0.42.1.

Writes autoencoders.json (configs and checksums), autoencoders.safetensors (inputs, outputs, gradients) and the model
folders autoencoder_kl_*/ to the folder given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, VQModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution, VectorQuantizer
from diffusers.utils import logging
from gradients import gradients
from models import LEGACY, entry_of, pattern, perturb
from safetensors.torch import load_file, save_file

TWO_BLOCKS = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "sample_size": 16,
}

# name -> config; "run" holds the arguments of the call. No group has only one channel, since a bias before it would have an
# exactly zero gradient.
KL_CASES = {
    "kl_plain": {**TWO_BLOCKS, "run": {"float64": True, "tiles": True}},
    "kl_four_levels": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [4, 8, 12, 16],
        "layers_per_block": 2,
        "norm_num_groups": 2,
        "sample_size": 32,
        "run": {"size": [16, 24], "tiles": True},
    },
    "kl_one_block": {"block_out_channels": [12], "norm_num_groups": 3, "sample_size": 8},
    "kl_attention_blocks": {
        **TWO_BLOCKS,
        "down_block_types": ["AttnDownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "AttnUpDecoderBlock2D"],
        "act_fn": "gelu",
        "run": {"float64": True},
    },
    "kl_no_mid_attention": {
        **TWO_BLOCKS,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "latent_channels": 6,
        "shift_factor": 0.1159,
        "scaling_factor": 0.3611,
        "force_upcast": False,
        "run": {"tiles": True},
    },
    "kl_channels_mish": {
        **TWO_BLOCKS,
        "act_fn": "mish",
        "in_channels": 1,
        "out_channels": 2,
        "latent_channels": 2,
        "layers_per_block": 2,
        "latents_mean": [0.25, -1.5],
        "latents_std": [2.0, 0.5],
    },
    "kl_odd_size_relu": {**TWO_BLOCKS, "act_fn": "relu", "use_quant_conv": False, "run": {"size": [13, 9]}},
    "kl_draw": {
        **TWO_BLOCKS,
        "sample_size": [16, 24],
        "use_post_quant_conv": False,
        "run": {"sample_posterior": True, "float64": True},
    },
    "kl_slicing": {**TWO_BLOCKS, "act_fn": "swish", "norm_num_groups": 2, "run": {"slicing": True}},
    "kl_unetres_prefix": {
        **TWO_BLOCKS,
        "block_out_channels": [16, 8],
        "down_block_types": ["UNetResDownEncoderBlock2D", "UNetResAttnDownEncoderBlock2D"],
        "up_block_types": ["UNetResUpDecoderBlock2D", "UNetResAttnUpDecoderBlock2D"],
    },
}

SPATIAL = {**TWO_BLOCKS, "block_out_channels": [64, 96], "norm_type": "spatial", "num_vq_embeddings": 16}

VQ_CASES = {
    "vq_plain": {**TWO_BLOCKS, "num_vq_embeddings": 16, "run": {"float64": True}},
    "vq_narrow_codebook": {
        **TWO_BLOCKS,
        "num_vq_embeddings": 40,
        "vq_embed_dim": 2,
        "latent_channels": 4,
        "scaling_factor": 1.0,
        "force_upcast": True,
        "mid_block_add_attention": False,
        "act_fn": "gelu",
    },
    "vq_spatial": {**SPATIAL, "run": {"float64": True}},
    "vq_spatial_attention": {
        **SPATIAL,
        "latent_channels": 4,
        "vq_embed_dim": 4,
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "lookup_from_codebook": True,
        "run": {"lookup": True},
    },
    "vq_not_quantized": {**TWO_BLOCKS, "num_vq_embeddings": 8, "run": {"force_not_quantize": True}},
}


def move_codebook(model):
    """Spreads the codebook, so the distances of the nearest vectors differ by more than the rounding error."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("quantize."):
                parameter += 0.5 * pattern(parameter.shape)


def run_kl(key, model, run, sample, tensors):
    posterior = model.encode(sample).latent_dist
    tensors[key + "/mean"], tensors[key + "/logvar"] = posterior.mean.detach(), posterior.logvar.detach()
    tensors[key + "/kl"] = posterior.kl().detach()
    if run.get("sample_posterior"):
        generator = torch.Generator().manual_seed(23)
        output = model(sample, sample_posterior=True, generator=generator).sample
        # As in the training of autoencoders, the gradient of the divergence is added.
        (1e-2 * posterior.kl().sum()).backward(retain_graph=True)
    else:
        output = model(sample).sample
    output.backward(pattern(output.shape, sample.dtype))
    return output.detach()


def run_vq(key, model, run, sample, tensors):
    h = model.encode(sample).latents
    quantized, loss, (_, _, indices) = model.quantize(h)
    tensors[key + "/latents"], tensors[key + "/indices"] = h.detach(), indices
    tensors[key + "/quantized"] = quantized.detach()
    if run.get("force_not_quantize"):
        output = model.decode(h, force_not_quantize=True)
    else:
        output = model(sample)
    tensors[key + "/commit_loss"] = output.commit_loss.detach()
    total = (output.sample * pattern(output.sample.shape, sample.dtype)).sum() + 3 * output.commit_loss.sum()
    total.backward()
    if run.get("lookup"):
        shape = [h.shape[0], h.shape[2], h.shape[3], h.shape[1]]
        with torch.no_grad():
            looked_up = model.decode(indices, force_not_quantize=True, shape=shape)
        tensors[key + "/lookup"], tensors[key + "/lookup_loss"] = looked_up.sample, looked_up.commit_loss
    return output.sample.detach()


def run_tiles(key, model, tensors):
    """Makes tiles of two sizes: the default, and tiles with a larger overlap that do not divide the image."""
    scale = 2 ** (len(model.config.block_out_channels) - 1)
    generator = torch.Generator().manual_seed(9)
    model.enable_tiling()
    for name, size, latent, overlap in [("default", None, None, None), ("uneven", 3 * scale, 3, 0.34)]:
        if size is not None:
            model.tile_sample_min_size, model.tile_latent_min_size = size, latent
            model.tile_overlap_factor = overlap
        # The last tile has the smallest size that the encoder accepts.
        step = int(model.tile_sample_min_size * (1 - model.tile_overlap_factor))
        image = torch.randn([2, model.config.in_channels, 2 * step + scale, step + scale], generator=generator)
        image.requires_grad_(True)
        moments = model.encode(image).latent_dist.parameters
        moments.backward(pattern(moments.shape))
        with torch.no_grad():
            latents = model.encode(image).latent_dist.mean
            decoded = model.decode(latents).sample
        tensors[f"{key}/{name}_tiles/image"] = image.detach()
        tensors[f"{key}/{name}_tiles/moments"] = moments.detach()
        tensors[f"{key}/{name}_tiles/grad_image"] = image.grad
        tensors[f"{key}/{name}_tiles/decoded"] = decoded
    model.disable_tiling()


def run_case(name, seed, tensors, dtype):
    variational = name in KL_CASES
    config = dict((KL_CASES if variational else VQ_CASES)[name])
    run = config.pop("run", {})
    torch.manual_seed(seed)
    model = (AutoencoderKL if variational else VQModel)(**config)
    entry = {"class": type(model).__name__, **entry_of(model, config, run, seed)}
    perturb(model)
    move_codebook(model)
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(7)
    sample = torch.randn([2, model.config.in_channels, *run.get("size", [8, 8])], generator=generator).to(dtype)
    sample.requires_grad_(True)
    if run.get("slicing"):
        model.enable_slicing()
    key = name if dtype == torch.float32 else name + ".float64"
    output = (run_kl if variational else run_vq)(key, model, run, sample, tensors)
    tensors[key + "/sample"] = sample.detach()
    tensors[key + "/output"] = output
    tensors[key + "/grad_sample"] = sample.grad
    gradients(key, model, tensors)
    if run.get("tiles") and dtype == torch.float32:
        run_tiles(key, model, tensors)
    return entry


def run_distribution(tensors):
    """Makes samples, divergences and likelihoods, with log variances beyond both bounds."""
    parameters = 12 * torch.randn([3, 4, 2, 5], generator=torch.Generator().manual_seed(1))
    parameters[0, 2, 0, 0], parameters[0, 3, 0, 0] = -40.0, 30.0
    other = DiagonalGaussianDistribution(torch.randn([3, 4, 2, 5], generator=torch.Generator().manual_seed(2)))
    parameters.requires_grad_(True)
    posterior = DiagonalGaussianDistribution(parameters)
    at = other.mean + 0.5
    draw = posterior.sample(torch.Generator().manual_seed(3))
    kl, kl_other = posterior.kl(), posterior.kl(other)
    (kl.sum() + kl_other.sum() * 1e-3 + draw.sum() * 1e-6).backward()
    torch.manual_seed(4)
    results = {
        "parameters": parameters,
        "other": other.parameters,
        "mean": posterior.mean,
        "logvar": posterior.logvar,
        "std": posterior.std,
        "var": posterior.var,
        "sample": draw,
        "sample_global": posterior.sample(),
        "kl": kl,
        "kl_other": kl_other,
        "at": at,
        "nll": other.nll(at),
        "nll_dims": other.nll(at, dims=[1, 3]),
        "nll_all": other.nll(at, dims=[0, 1, 2, 3]),
        "grad": parameters.grad,
        "sample_half": DiagonalGaussianDistribution(other.parameters.half()).sample(torch.Generator().manual_seed(5)),
        "sample_double": DiagonalGaussianDistribution(other.parameters.double()).sample(
            torch.Generator().manual_seed(5)
        ),
    }
    exact = DiagonalGaussianDistribution(other.parameters, deterministic=True)
    results["deterministic_sample"] = exact.sample(torch.Generator().manual_seed(6))
    results["deterministic_kl"] = exact.kl()
    results["deterministic_nll"] = exact.nll(at)
    tensors.update({"distribution/" + key: value.detach() for key, value in results.items()})


def run_quantizer(tensors):
    for name, options in {"legacy": {}, "repaired": {"legacy": False, "sane_index_shape": True}}.items():
        torch.manual_seed(31)
        quantizer = VectorQuantizer(30, 3, beta=0.4, **options)
        initial = quantizer.embedding.weight.detach().clone()
        with torch.no_grad():
            quantizer.embedding.weight += 0.5 * pattern(initial.shape)
        z = torch.randn([2, 3, 4, 5], generator=torch.Generator().manual_seed(8)).requires_grad_(True)
        quantized, loss, (_, _, indices) = quantizer(z)
        ((quantized * pattern(quantized.shape)).sum() + 7 * loss).backward()
        entry = quantizer.get_codebook_entry(indices.reshape(-1), [2, 4, 5, 3])
        for key, value in {
            "initial": initial,
            "z": z,
            "quantized": quantized,
            "loss": loss,
            "indices": indices,
            "entry": entry,
            "plain_entry": quantizer.get_codebook_entry(indices, None),
            "grad_z": z.grad,
            "grad_codebook": quantizer.embedding.weight.grad,
        }.items():
            tensors[f"quantizer_{name}/{key}"] = value.detach()


def save_folders(out, tensors):
    """Writes a folder with Python, and a file in the form of converted old checkpoints: other names, 1x1 convolutions."""
    entries = {}
    for name in ["autoencoder_kl_plain", "autoencoder_kl_legacy", "vq_model_plain"]:
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(11)
        config = {**TWO_BLOCKS, "block_out_channels": [4, 8], "norm_num_groups": 2}
        if name == "autoencoder_kl_legacy":
            config["up_block_types"] = ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]
        model = (VQModel if name.startswith("vq") else AutoencoderKL)(**config).eval()
        perturb(model)
        model.save_pretrained(folder)
        if name == "autoencoder_kl_legacy":
            path = folder / "diffusion_pytorch_model.safetensors"
            state = {}
            for key, value in load_file(path).items():
                for new, old in LEGACY.items():
                    if f".{new}." in key:
                        key = key.replace(f".{new}.", f".{old}.")
                        if key.endswith("weight") and key.startswith("encoder."):
                            value = value[:, :, None, None].contiguous()
                state[key] = value
            save_file(state, path, metadata={"format": "pt"})
            written = json.loads((folder / "config.json").read_text())
            for key in ["scaling_factor", "force_upcast", "shift_factor", "latents_mean", "latents_std"]:
                del written[key]
            written["decay"] = 0.9999
            (folder / "config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
        sample = torch.randn([2, 3, 8, 8], generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            output = model(sample).sample
        tensors[name + "/sample"] = sample
        tensors[name + "/output"] = output
        entries[name] = {"keys": list(model.state_dict())}
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    tensors, cases = {}, {}
    for seed, name in enumerate([*KL_CASES, *VQ_CASES]):
        cases[name] = run_case(name, seed, tensors, torch.float32)
        if cases[name]["run"].get("float64"):
            run_case(name, seed, tensors, torch.float64)
    run_distribution(tensors)
    run_quantizer(tensors)
    folders = save_folders(out, tensors)
    defaults = {"AutoencoderKL": AutoencoderKL().to_json_string(), "VQModel": VQModel().to_json_string()}
    text = json.dumps({"cases": cases, "folders": folders, "defaults": defaults}, indent=1, sort_keys=True) + "\n"
    (out / "autoencoders.json").write_text(text)
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / "autoencoders.safetensors")


if __name__ == "__main__":
    main()
