"""Golden tensors of AutoencoderTiny: encoder, decoder, gradients, tiles, initial weights and a saved folder of Python
diffusers 0.42.1.

Writes autoencoder_tiny.json (configs and checksums), autoencoder_tiny.safetensors (inputs, outputs, gradients) and the
model folder autoencoder_tiny/ to the folder given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from gradients import gradients
from models import entry_of, pattern, run_cases, write

FOUR_STAGES = {"encoder_block_out_channels": [8] * 4, "decoder_block_out_channels": [8] * 4}
TWO_STAGES = {
    "encoder_block_out_channels": [6] * 2,
    "decoder_block_out_channels": [6] * 2,
    "num_encoder_blocks": [1, 2],
    "num_decoder_blocks": [2, 1],
}

# name -> config; "run" holds the arguments of the call.
CASES = {
    "four_stages": {**FOUR_STAGES, "run": {"size": [16, 24], "float64": True, "tiles": True}},
    "sixteen_latent_channels": {
        **FOUR_STAGES,
        "latent_channels": 16,
        "latent_magnitude": 2.5,
        "latent_shift": 0.25,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "force_upcast": True,
        "run": {"size": [8, 8]},
    },
    "odd_size_bilinear": {**TWO_STAGES, "upsample_fn": "bilinear", "act_fn": "silu", "run": {"size": [13, 9]}},
    "bicubic_by_three": {
        **TWO_STAGES,
        "upsample_fn": "bicubic",
        "act_fn": "mish",
        "upsampling_scaling_factor": 3,
        "in_channels": 1,
        "out_channels": 2,
        "run": {"float64": True},
    },
    "nearest_exact_gelu": {**TWO_STAGES, "upsample_fn": "nearest-exact", "act_fn": "gelu"},
    "area": {**TWO_STAGES, "upsample_fn": "area", "latent_magnitude": 4},
    "bilinear_by_three": {**TWO_STAGES, "upsample_fn": "bilinear", "upsampling_scaling_factor": 3},
    "unequal_stages": {
        "encoder_block_out_channels": [10] * 3,
        "decoder_block_out_channels": [4],
        "num_encoder_blocks": [0, 2, 1],
        "num_decoder_blocks": [1],
        "latent_channels": 2,
        "run": {"slicing": True},
    },
}


def run_tiles(key, model, tensors):
    """Makes tiles of two sizes: one tile that is larger than the image, and tiles that do not divide it."""
    generator = torch.Generator().manual_seed(9)
    model.enable_tiling()
    for name, size, overlap, shape in [("default", 512, 0.125, [24, 16]), ("small", 32, 0.5, [56, 40])]:
        model.tile_sample_min_size, model.tile_latent_min_size = size, size // 8
        model.tile_overlap_factor = overlap
        image = torch.rand([1, 3, *shape], generator=generator) * 2 - 1
        image.requires_grad_(True)
        latents = model.encode(image).latents
        latents.backward(pattern(latents.shape))
        inputs = latents.detach().requires_grad_(True)
        decoded = model.decode(inputs).sample
        decoded.backward(pattern(decoded.shape))
        tensors[f"{key}/{name}_tiles/image"] = image.detach()
        tensors[f"{key}/{name}_tiles/latents"] = inputs.detach()
        tensors[f"{key}/{name}_tiles/grad_image"] = image.grad
        tensors[f"{key}/{name}_tiles/decoded"] = decoded.detach()
        tensors[f"{key}/{name}_tiles/grad_latents"] = inputs.grad
    model.disable_tiling()


def run_case(name, seed, tensors, dtype):
    config = dict(CASES[name])
    run = config.pop("run", {})
    torch.manual_seed(seed)
    model = AutoencoderTiny(**config)
    entry = entry_of(model, config, run, seed)
    model = model.to(dtype)
    if run.get("slicing"):
        model.enable_slicing()
    generator = torch.Generator().manual_seed(7)
    size = run.get("size", [8, 6])
    image = (torch.rand([2, model.config.in_channels, *size], generator=generator) * 2 - 1).to(dtype)
    image.requires_grad_(True)
    latents = model.encode(image).latents
    # Latents beyond the bounds of the decoder's hyperbolic tangent.
    decoded = model.decode(4 * latents).sample
    decoded.backward(pattern(decoded.shape, dtype))
    key = name if dtype == torch.float32 else name + ".float64"
    tensors[key + "/image"] = image.detach()
    tensors[key + "/latents"] = latents.detach()
    tensors[key + "/decoded"] = decoded.detach()
    tensors[key + "/grad_image"] = image.grad
    gradients(key, model, tensors)
    scaled = model.scale_latents(20 * latents.detach())
    tensors[key + "/scaled"] = scaled
    tensors[key + "/unscaled"] = model.unscale_latents(scaled)
    if dtype == torch.float32:
        # The rounded latents are float32, which a float64 model does not take.
        with torch.no_grad():
            tensors[key + "/output"] = model(image).sample
        if run.get("tiles"):
            run_tiles(key, model, tensors)
    return entry


def save_folder(out, tensors):
    folder = out / "autoencoder_tiny"
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(11)
    model = AutoencoderTiny(**TWO_STAGES, latent_magnitude=3.0).eval()
    model.save_pretrained(folder)
    image = torch.rand([2, 3, 8, 8], generator=torch.Generator().manual_seed(3)) * 2 - 1
    with torch.no_grad():
        tensors["autoencoder_tiny/output"] = model(image).sample
    tensors["autoencoder_tiny/image"] = image
    return {"keys": list(model.state_dict())}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    cases, tensors = run_cases(out, CASES, run_case)
    folder = save_folder(out, tensors)
    write(out, "autoencoder_tiny", tensors, cases=cases, folder=folder, default=AutoencoderTiny().to_json_string())


if __name__ == "__main__":
    main()
