"""Golden tensors of ControlNetModel: forward, backward, initial weights, and models made by from_unet, of Python
diffusers 0.42.1.

Writes controlnet.json (configs and checksums) and controlnet.safetensors (inputs, outputs, gradients) to the folder
given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from models import entry_of, perturb, run_cases, write
from unet_2d_condition import BASE as UNET
from unet_2d_condition import run_model

BASE = {
    "in_channels": 2,
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "conditioning_embedding_out_channels": [2, 3, 4],
}

# name -> differences from BASE; "run" holds the arguments of the call, "unet" the UNet that the model is made from.
CASES = {
    "sd15": {
        "in_channels": 4,
        "block_out_channels": [4, 4, 8, 8],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "run": {"float64": True, "size": [16, 8]},
    },
    "guess_mode": {"run": {"guess_mode": True, "conditioning_scale": 0.7, "float64": True}},
    "global_pool": {
        "global_pool_conditions": True,
        "controlnet_conditioning_channel_order": "bgr",
        "conditioning_channels": 2,
        "run": {"guess_mode": True, "conditioning_scale": 1.5},
    },
    "sdxl": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "attention_head_dim": [1, 2],
        "num_attention_heads": [2, 4],
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
        "upcast_attention": None,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 5 + 6 * 4,
        "run": {"text_embeds": 5, "time_ids": 6},
    },
    "text_addition": {
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 3,
        "mid_block_type": "UNetMidBlock2D",
        "only_cross_attention": [True, False],
        "act_fn": "gelu",
        "class_embed_type": "timestep",
        "run": {"labels": "int"},
    },
    "unused_parts": {
        "encoder_hid_dim": 7,
        "encoder_hid_dim_type": "text_image_proj",
        "addition_embed_type": "text_image",
        "num_class_embeds": 10,
        "run": {"labels": "int"},
    },
    "class_projection": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 5,
        "encoder_hid_dim": 7,
        "downsample_padding": 0,
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "run": {"labels": 5, "scalar": 17.75},
    },
    "attention_mask": {
        "block_out_channels": [4],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "run": {"attention_mask": 64},
    },
    "blocks_without_encoder": {
        "down_block_types": ["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
        "resnet_time_scale_shift": "scale_shift",
        "mid_block_scale_factor": 2,
        "run": {"scalar": 17},
    },
    "from_unet": {"unet": {**UNET, "num_class_embeds": 10}, "run": {"labels": "int"}},
    "from_unet_projected": {
        "unet": {**UNET, "encoder_hid_dim": 6, "layers_per_block": 2, "use_linear_projection": True},
        "unet_options": {"controlnet_conditioning_channel_order": "bgr", "conditioning_channels": 1},
    },
    "from_unet_without_weights": {"unet": UNET, "unet_options": {"load_weights_from_unet": False}},
}


def inputs_of(model, run, dtype):
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    config = model.config
    height, width = run.get("size", [8, 8])
    halvings = len(config.conditioning_embedding_out_channels) - 1
    inputs = {
        "sample": randn(3, config.in_channels, height, width),
        "timesteps": torch.tensor([1, 20, 49]),
        "encoder_hidden_states": randn(3, 5, config.cross_attention_dim),
        "controlnet_cond": randn(3, config.conditioning_channels, height << halvings, width << halvings),
    }
    if run.get("labels") == "int":
        inputs["class_labels"] = torch.tensor([3, 1, 9])
    elif "labels" in run:
        inputs["class_labels"] = randn(3, run["labels"])
    if "text_embeds" in run:
        inputs["text_embeds"] = randn(3, run["text_embeds"])
        inputs["time_ids"] = torch.arange(3 * run["time_ids"]).reshape(3, -1).to(dtype) * 7
    if "attention_mask" in run:
        inputs["attention_mask"] = (torch.rand(3, run["attention_mask"], generator=generator) > 0.3).to(torch.int64)
    return inputs


def outputs_of(model, run, inputs):
    arguments, added = {}, {}
    for name, tensor in inputs.items():
        if name in ["text_embeds", "time_ids"]:
            added[name] = tensor
        elif name not in ["timesteps"]:
            arguments[name] = tensor
    for name in ["conditioning_scale", "guess_mode"]:
        if name in run:
            arguments[name] = run[name]
    output = model(timestep=run.get("scalar", inputs["timesteps"]), added_cond_kwargs=added, **arguments)
    outputs = {f"down.{i}": tensor for i, tensor in enumerate(output.down_block_res_samples)}
    return {**outputs, "mid": output.mid_block_res_sample}


def run_case(name, seed, tensors, dtype):
    spec = dict(CASES[name])
    run, unet, options = spec.pop("run", {}), spec.pop("unet", None), spec.pop("unet_options", {})
    config = {**BASE, **spec}
    torch.manual_seed(seed)
    if unet is None:
        model = ControlNetModel(**config)
    else:
        options = {"conditioning_embedding_out_channels": [2, 3, 4], **options}
        unet_model = UNet2DConditionModel(**unet)
        model = ControlNetModel.from_unet(unet_model, **options)
        config = dict(model.config)
        # Python keeps them in a set, whose order differs between runs.
        config["_use_default_values"] = sorted(config["_use_default_values"])
    entry = entry_of(model, config, run, seed)
    if unet is not None:
        entry.update(unet=unet, unet_options=options)
    perturb(model)
    model = model.to(dtype).eval()
    key = name if dtype == torch.float32 else name + ".float64"
    run_model(model, key, run, tensors, dtype, outputs_of, inputs_of(model, run, dtype))
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    cases, tensors = run_cases(out, CASES, run_case)
    write(out, "controlnet", tensors, cases=cases)


if __name__ == "__main__":
    main()
