"""Golden tensors of UNet2DModel: forward, backward, initial weights and saved folders of Python diffusers 0.42.1.

Writes unet_2d.json (configs and checksums), unet_2d.safetensors (inputs, outputs, gradients) and three model folders
unet_2d_*/ to the folder given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
import json
import shutil
import zlib
from pathlib import Path

import torch
from diffusers import UNet2DModel
from diffusers.utils import logging
from gradients import direction, gradients
from safetensors.torch import load_file, save_file

BASE = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}

SKIP = {
    "down_block_types": ["SkipDownBlock2D"] * 3,
    "up_block_types": ["SkipUpBlock2D"] * 3,
    "block_out_channels": [8, 16, 16],
}

# name -> differences from BASE; "run" holds the arguments of the call.
CASES = {
    "plain": {
        "layers_per_block": 2,
        "block_out_channels": [8, 16, 16],
        "in_channels": 1,
        "out_channels": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
        "run": {"float64": True},
    },
    "one_wide_head": {"attention_head_dim": None},
    "resnet_resampling": {
        "down_block_types": ["ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"],
    },
    "attention_resnet_resampling": {
        "down_block_types": ["AttnDownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
    },
    "skip": {
        **SKIP,
        "time_embedding_type": "fourier",
        "center_input_sample": True,
        "norm_num_groups": None,
        "norm_eps": 1e-6,
        "mid_block_scale_factor": 1.4142135623730951,
        "run": {"float64": True, "float_timesteps": True},
    },
    "skip_up_only": {
        "down_block_types": ["DownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["SkipUpBlock2D", "SkipUpBlock2D"],
    },
    "attention_skip": {
        "block_out_channels": [32, 64],
        "layers_per_block": 2,
        "attention_head_dim": 16,
        "down_block_types": ["AttnSkipDownBlock2D", "AttnSkipDownBlock2D"],
        "up_block_types": ["AttnSkipUpBlock2D", "AttnSkipUpBlock2D"],
    },
    "k_blocks": {
        "block_out_channels": [32, 64],
        "layers_per_block": 2,
        "act_fn": "gelu",
        "down_block_types": ["KDownBlock2D", "KDownBlock2D"],
        "up_block_types": ["KUpBlock2D", "KUpBlock2D"],
    },
    "scale_shift": {"resnet_time_scale_shift": "scale_shift", "run": {"float64": True}},
    "scale_shift_attention_norm": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2},
    "learned_time": {"time_embedding_type": "learned", "num_train_timesteps": 50},
    "class_table": {"num_class_embeds": 10, "run": {"class_labels": "int", "float64": True}},
    "class_timestep": {"class_embed_type": "timestep", "run": {"class_labels": "int"}},
    "class_identity": {"class_embed_type": "identity", "run": {"class_labels": "embedding"}},
    "class_timestep_fourier": {
        "class_embed_type": "timestep",
        "time_embedding_type": "fourier",
        "run": {"class_labels": "int", "float_timesteps": True},
    },
    "google_ddpm": {"downsample_padding": 0, "freq_shift": 1, "flip_sin_to_cos": False, "norm_eps": 1e-6},
    "no_mid_block": {"mid_block_type": None},
    "no_mid_attention_mish": {"add_attention": False, "act_fn": "mish"},
    "gelu_scaled_mid": {"act_fn": "gelu", "mid_block_scale_factor": 1.5, "run": {"float_timesteps": True}},
    "relu_channels": {
        "act_fn": "relu",
        "in_channels": 1,
        "out_channels": 2,
        "layers_per_block": 3,
        "block_out_channels": [8, 12, 16],
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "odd_size_one_level": {
        "sample_size": [7, 5],
        "block_out_channels": [8],
        "down_block_types": ["AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D"],
        "run": {"size": [7, 5]},
    },
    "head_does_not_divide": {"block_out_channels": [12, 16], "attention_head_dim": 10},
    "odd_channels": {"block_out_channels": [9, 18], "norm_num_groups": 3, "attention_head_dim": 3},
    "unetres_prefix": {
        "act_fn": "swish",
        "time_embedding_dim": 24,
        "down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D"],
        "up_block_types": ["UNetResAttnUpBlock2D", "UNetResUpBlock2D"],
    },
    "dropout_in_training": {"dropout": 0.3, "run": {"train": True}},
    "scalar_timestep": {"run": {"scalar": 17}},
    "scalar_fraction": {"run": {"scalar": 17.75}},
}


def pattern(shape, dtype=torch.float32):
    """Returns numbers that both languages compute equally."""
    count = 1
    for size in shape:
        count *= size
    return torch.cos(torch.arange(count, dtype=torch.float32)).reshape(shape).to(dtype)


def perturb(model):
    """Changes the parameters that are initialised to exact zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("norm" in name and ".linear." not in name) or name.startswith("controlnet_"):
                parameter += 0.1 * pattern(parameter.shape)


def checksum(model):
    value = 0
    for tensor in model.state_dict().values():
        value = zlib.crc32(tensor.contiguous().numpy().tobytes(), value)
    return value


def layout(model):
    text = "".join(f"{name} {list(tensor.shape)}\n" for name, tensor in model.state_dict().items())
    return zlib.crc32(text.encode())


def entry_of(model, config, run, seed):
    """Returns the data of a case that the tests need besides its tensors."""
    return {
        "config": config,
        "run": run,
        "seed": seed,
        "num_parameters": model.num_parameters(),
        "weights_crc32": checksum(model),
        "layout_crc32": layout(model),
        "config_text": model.to_json_string(),
    }


def model_of(model_class, config, run, seed, dtype):
    """Returns the model of a case, with changed weights, and the entry of the case."""
    torch.manual_seed(seed)
    model = model_class(**config)
    entry = entry_of(model, config, run, seed)
    perturb(model)
    model = model.to(dtype)
    model.train(run.get("train", False))
    return model, entry


def run_cases(out, cases, run_one):
    """Returns (entries, tensors) of all cases, in float32, and also in float64 if a case requests it."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    logging.set_verbosity_error()
    entries, tensors = {}, {}
    for seed, name in enumerate(cases):
        entries[name] = run_one(name, seed, tensors, torch.float32)
        if entries[name]["run"].get("float64"):
            run_one(name, seed, tensors, torch.float64)
    return entries, tensors


def write(out, stem, tensors, **parts):
    """Writes STEM.json with the parts and STEM.safetensors with the tensors."""
    (out / f"{stem}.json").write_text(json.dumps(parts, indent=1, sort_keys=True) + "\n")
    save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{stem}.safetensors")


def arguments(model, run, dtype):
    generator = torch.Generator().manual_seed(7)
    size = run.get("size", [8, 8])
    sample = torch.randn([3, model.config.in_channels, *size], generator=generator).to(dtype)
    timesteps = torch.tensor([1, 20, 49])
    if run.get("float_timesteps"):
        timesteps = torch.tensor([0.05, 1.5, 40.25], dtype=dtype)
    labels = None
    if run.get("class_labels") == "int":
        labels = torch.tensor([3, 1, 9])
    elif run.get("class_labels") == "embedding":
        labels = torch.randn([3, model.time_embedding.linear_2.out_features], generator=generator).to(dtype)
    return sample, timesteps, labels


def run_case(name, seed, tensors, dtype):
    spec = dict(CASES[name])
    run = spec.pop("run", {})
    config = {**BASE, **spec}
    model, entry = model_of(UNet2DModel, config, run, seed, dtype)
    sample, timesteps, labels = arguments(model, run, dtype)
    inputs = {"sample": sample, "timesteps": timesteps, "class_labels": labels}
    inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    for tensor in inputs.values():
        tensor.requires_grad_(tensor.is_floating_point())
    torch.manual_seed(5)
    output = model(sample, run.get("scalar", timesteps), class_labels=labels).sample
    output.backward(pattern(output.shape, dtype))

    key = name if dtype == torch.float32 else name + ".float64"
    for name, tensor in inputs.items():
        tensors[f"{key}/{name}"] = tensor.detach()
        if tensor.grad is not None:
            tensors[f"{key}/grad_{name}"] = tensor.grad
    tensors[key + "/output"] = output.detach()
    gradients(key, model, tensors)
    return entry


LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save_folders(out, tensors):
    """Writes the model with Python: in one file, in shards of a variant, and with the names of old versions."""
    entries = {}
    for name, spec in {
        "unet_2d_plain": {},
        "unet_2d_sharded_fp16": {"num_class_embeds": 4},
        "unet_2d_legacy": {"attention_head_dim": None},
    }.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        torch.manual_seed(11)
        model = UNet2DModel(**{**BASE, "block_out_channels": [4, 8], **spec}).eval()
        perturb(model)
        if name == "unet_2d_sharded_fp16":
            model = model.half()
            model.save_pretrained(folder, variant="fp16", max_shard_size="16KB")
            model = model.float()
        else:
            model.save_pretrained(folder)
        keys = list(model.state_dict())
        if name == "unet_2d_legacy":
            path = folder / "diffusion_pytorch_model.safetensors"
            state = load_file(path)
            for new, old in LEGACY.items():
                state = {key.replace(f".{new}.", f".{old}."): value for key, value in state.items()}
            save_file(state, path, metadata={"format": "pt"})
            config = json.loads((folder / "config.json").read_text())
            config["decay"] = 0.9999
            config["optimization_step"] = 37000
            (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        sample = torch.randn([2, 3, 8, 8], generator=torch.Generator().manual_seed(3))
        labels = torch.tensor([0, 3]) if "num_class_embeds" in spec else None
        with torch.no_grad():
            output = model(sample, torch.tensor([5, 10]), class_labels=labels).sample
        tensors[name + "/sample"] = sample
        tensors[name + "/output"] = output
        entries[name] = {"keys": keys}
    return entries


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    cases, tensors = run_cases(out, CASES, run_case)
    # The tests draw the same numbers.
    tensors["direction"] = direction(1000, 3)
    write(out, "unet_2d", tensors, cases=cases, folders=save_folders(out, tensors))


if __name__ == "__main__":
    main()
