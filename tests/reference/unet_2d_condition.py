"""Golden tensors of UNet2DConditionModel: forward, backward and initial weights of Python diffusers 0.42.1.

Writes unet_2d_condition.json (configs and checksums) and unet_2d_condition.safetensors (inputs, outputs, gradients) to
the folder given by --out. Deterministic: a second run gives the same numbers.
"""

import argparse
import functools
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.dual_transformer_2d import DualTransformer2DModel
from gradients import gradients
from models import model_of, pattern, run_cases, write

BASE = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}

SIMPLE = {
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "resnet_time_scale_shift": "scale_shift",
    "attention_head_dim": 4,
}

PLAIN = {
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
}

# name -> differences from BASE; "run" holds the arguments of the call.
CASES = {
    "sd15": {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [4, 4, 8, 8],
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "run": {"float64": True, "size": [16, 8]},
    },
    "sd2": {
        "attention_head_dim": [1, 2],
        "use_linear_projection": True,
        "upcast_attention": True,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    },
    "sdxl": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [4, 4, 8],
        "attention_head_dim": [1, 2, 4],
        "transformer_layers_per_block": [1, 2, 3],
        "use_linear_projection": True,
        "upcast_attention": None,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 5 + 6 * 4,
        "run": {"float64": True, "text_embeds": 5, "time_ids": 6},
    },
    "layers_of_each_transformer": {
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, [2, 0]],
        "reverse_transformer_layers_per_block": [[1, 2, 0], 1],
        "mid_block_type": None,
    },
    "deepfloyd": {
        **SIMPLE,
        "act_fn": "gelu",
        "cross_attention_dim": 64,
        "cross_attention_norm": "group_norm",
        "encoder_hid_dim": 12,
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 3,
        "class_embed_type": "timestep",
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 1.4142,
        "mid_block_scale_factor": 1.4142,
        "time_embedding_act_fn": "gelu",
        "run": {"labels": "int", "encoder_attention_mask": True},
    },
    "simple_cross_blocks": {
        **SIMPLE,
        "down_block_types": ["SimpleCrossAttnDownBlock2D"] * 2,
        "up_block_types": ["SimpleCrossAttnUpBlock2D"] * 2,
        "attention_head_dim": [2, 4],
        "only_cross_attention": [True, False],
        "mid_block_only_cross_attention": True,
        "resnet_time_scale_shift": "default",
        "run": {"float64": True},
    },
    "simple_cross_attention_mask": {**SIMPLE, "run": {"attention_mask": 5}},
    "simple_cross_layer_norm": {**SIMPLE, "cross_attention_dim": 8, "cross_attention_norm": "layer_norm"},
    "kandinsky21": {
        **SIMPLE,
        "encoder_hid_dim": 7,
        "encoder_hid_dim_type": "text_image_proj",
        "addition_embed_type": "text_image",
        "run": {"text_embeds": 6, "image_embeds": 6},
    },
    "kandinsky22": {
        **SIMPLE,
        "encoder_hid_dim": 7,
        "encoder_hid_dim_type": "image_proj",
        "addition_embed_type": "image",
        "run": {"no_encoder": True, "image_embeds": 7},
    },
    "kandinsky22_hint": {
        **SIMPLE,
        "in_channels": 6,
        "encoder_hid_dim": 7,
        "encoder_hid_dim_type": "image_proj",
        "addition_embed_type": "image_hint",
        "run": {"no_encoder": True, "image_embeds": 7, "hint": True, "channels": 2},
    },
    "k_blocks": {
        "block_out_channels": [32, 64, 64],
        "layers_per_block": 2,
        "down_block_types": ["KDownBlock2D", "KCrossAttnDownBlock2D", "KCrossAttnDownBlock2D"],
        "up_block_types": ["KCrossAttnUpBlock2D", "KCrossAttnUpBlock2D", "KUpBlock2D"],
        "mid_block_type": None,
        "act_fn": "gelu",
        "attention_head_dim": 16,
        "time_embedding_type": "fourier",
        "time_embedding_dim": 64,
        "time_cond_proj_dim": 9,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "norm_num_groups": None,
        "run": {"float_timesteps": True, "timestep_cond": 9, "encoder_attention_mask": True},
    },
    "dual_cross_attention": {"dual_cross_attention": True, "run": {"tokens": 81}},
    "class_table": {"num_class_embeds": 10, "run": {"labels": "int"}},
    "class_identity": {"class_embed_type": "identity", "run": {"labels": 16}},
    "class_projection_concat": {
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 5,
        "class_embeddings_concat": True,
        "run": {"labels": 5},
    },
    "class_simple_projection": {
        "class_embed_type": "simple_projection",
        "projection_class_embeddings_input_dim": 5,
        "timestep_post_act": "silu",
        "time_embedding_act_fn": "mish",
        "run": {"labels": 5},
    },
    "class_timestep_fourier": {
        "class_embed_type": "timestep",
        "time_embedding_type": "fourier",
        "flip_sin_to_cos": False,
        "act_fn": "relu",
        "run": {"labels": "int", "float_timesteps": True},
    },
    "masks": {
        "block_out_channels": [4],
        "down_block_types": ["CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D"],
        "run": {"attention_mask": 64, "encoder_attention_mask": True, "float64": True},
    },
    "controlnet_residuals": {"run": {"controlnet": True}},
    "adapter_residuals": {
        "block_out_channels": [4, 8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "run": {"adapter": "down_intrablock_additional_residuals", "adapter_mid": True, "controlnet": True},
    },
    "adapter_residuals_of_old": {"run": {"adapter": "down_block_additional_residuals"}},
    "adapter_of_plain_blocks": {**PLAIN, "run": {"adapter": "down_intrablock_additional_residuals", "no_encoder": True}},
    "odd_size": {
        "block_out_channels": [4, 8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "run": {"size": [7, 5]},
    },
    "freeu": {
        "block_out_channels": [4, 8, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "run": {"freeu": [0.9, 0.2, 1.2, 1.4], "size": [12, 8]},
    },
    "only_cross_attention": {"only_cross_attention": True, "mid_block_scale_factor": 1.5},
    "lists": {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
        "cross_attention_dim": [6, 3],
        "layers_per_block": [2, 1],
        "only_cross_attention": [True, False],
        "sample_size": [8, 8],
    },
    "attention_blocks": {
        "down_block_types": ["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
        "mid_block_type": "UNetMidBlock2D",
        "attention_head_dim": [2, 4],
        "resnet_skip_time_act": True,
        "resnet_out_scale_factor": 2.0,
        "run": {"no_encoder": True},
    },
    "no_encoder": {"cross_attention_dim": 8, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
                   "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"], "run": {"no_encoder": True}},
    "edges": {
        **PLAIN,
        "center_input_sample": True,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "conv_in_kernel": 5,
        "conv_out_kernel": 5,
        "act_fn": "mish",
        "downsample_padding": 0,
        "norm_eps": 1e-6,
        "time_embedding_dim": 10,
        "run": {"no_encoder": True},
    },
    "heads_do_not_divide": {"block_out_channels": [9, 15], "norm_num_groups": 3, "attention_head_dim": 4},
    "dropout_in_training": {"dropout": 0.3, "run": {"train": True}},
    "scalar_timestep": {"run": {"scalar": 17}},
    "scalar_fraction": {"run": {"scalar": 17.75}},
    "text_time_with_widths": {
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": [6, 6],
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 5 + 6 * 4,
        "run": {"text_embeds": 5, "time_ids": 6},
    },
}


def residual_shapes(model, call):
    """Returns the shapes of the down blocks' residuals, of the adapters' residuals, and of the mid block's output."""
    control, adapter, handles = [], [], []

    def keep(block, _, output):
        hidden, residuals = output
        control.extend(residual.shape for residual in residuals)
        inside = getattr(block, "has_cross_attention", False)
        adapter.append(residuals[len(block.resnets) - 1].shape if inside else hidden.shape)

    mid = []
    handles.append(model.conv_in.register_forward_hook(lambda m, i, output: control.append(output.shape)))
    handles += [block.register_forward_hook(keep) for block in model.down_blocks]
    handles.append(model.mid_block.register_forward_hook(lambda m, i, output: mid.append(output.shape)))
    with torch.no_grad():
        call()
    for handle in handles:
        handle.remove()
    return control, adapter, mid[0]


def inputs_of(model, run, dtype):
    """Returns name -> tensor of all inputs of the forward. The names of list elements end with a number."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    config = model.config
    channels, size = run.get("channels", config.in_channels), run.get("size", [8, 8])
    inputs = {"sample": randn(3, channels, *size)}
    inputs["timesteps"] = torch.tensor([1, 20, 49])
    if run.get("float_timesteps"):
        inputs["timesteps"] = torch.tensor([0.05, 1.5, 40.25], dtype=dtype)
    tokens = run.get("tokens", 5)
    if not run.get("no_encoder"):
        width = config.cross_attention_dim
        width = width[0] if isinstance(width, (list, tuple)) else width
        inputs["encoder_hidden_states"] = randn(3, tokens, config.encoder_hid_dim or width)
    if run.get("labels") == "int":
        inputs["class_labels"] = torch.tensor([3, 1, 9])
    elif "labels" in run:
        inputs["class_labels"] = randn(3, run["labels"])
    for name in ["timestep_cond", "text_embeds", "image_embeds"]:
        if name in run:
            inputs[name] = randn(3, run[name])
    if "time_ids" in run:
        inputs["time_ids"] = torch.arange(3 * run["time_ids"]).reshape(3, -1).to(dtype) * 7
    if run.get("hint"):
        inputs["hint"] = randn(3, 3, 8 * size[0], 8 * size[1])
    if "attention_mask" in run:
        inputs["attention_mask"] = (torch.rand(3, run["attention_mask"], generator=generator) > 0.3).to(torch.int64)
    if run.get("encoder_attention_mask"):
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 1, 0, 0]]).bool()
    if "controlnet" in run or "adapter" in run:
        control, adapter, mid = residual_shapes(model, lambda: call(model, run, inputs))
        if run.get("controlnet"):
            for i, shape in enumerate(control):
                inputs[f"down_block_additional_residuals.{i}"] = randn(*shape)
            inputs["mid_block_additional_residual"] = randn(*mid)
        for i, shape in enumerate(adapter + ([mid] if run.get("adapter_mid") else [])):
            if "adapter" in run:
                inputs[f"{run['adapter']}.{i}"] = randn(*shape)
    return inputs


def call(model, run, inputs):
    arguments, added = {}, {}
    for name, tensor in inputs.items():
        if name in ["text_embeds", "time_ids", "image_embeds", "hint"]:
            added[name] = tensor
        elif "." in name:
            arguments.setdefault(name.split(".")[0], []).append(tensor)
        elif name not in ["sample", "timesteps", "encoder_hidden_states"]:
            arguments[name] = tensor
    timesteps = run.get("scalar", inputs["timesteps"])
    return model(inputs["sample"], timesteps, inputs.get("encoder_hidden_states"), added_cond_kwargs=added, **arguments)


def run_model(model, key, run, tensors, dtype, outputs_of, inputs):
    """Runs the forward and the backward pass, and records inputs, outputs and gradients."""
    for tensor in inputs.values():
        if tensor.is_floating_point():
            tensor.requires_grad_(True)
    torch.manual_seed(5)
    outputs = outputs_of(model, run, inputs)
    torch.autograd.backward(list(outputs.values()), [pattern(output.shape, dtype) for output in outputs.values()])
    for name, tensor in inputs.items():
        tensors[f"{key}/input/{name}"] = tensor.detach()
        if tensor.grad is not None:
            tensors[f"{key}/input_grad/{name}"] = tensor.grad
    for name, output in outputs.items():
        tensors[f"{key}/output/{name}"] = output.detach()
    gradients(key, model, tensors)


def run_case(name, seed, tensors, dtype):
    spec = dict(CASES[name])
    run = spec.pop("run", {})
    config = {**BASE, **spec}
    model, entry = model_of(UNet2DConditionModel, config, run, seed, dtype)
    if "freeu" in run:
        model.enable_freeu(*run["freeu"])
    key = name if dtype == torch.float32 else name + ".float64"
    run_model(model, key, run, tensors, dtype, lambda *arguments: {"sample": call(*arguments).sample},
              inputs_of(model, run, dtype))
    return entry


def let_dual_transformers_run():
    """Works around the released DualTransformer2DModel, which refuses the encoder_attention_mask of every block."""
    forward = DualTransformer2DModel.forward

    @functools.wraps(forward)
    def without_mask(self, *args, encoder_attention_mask=None, **kwargs):
        return forward(self, *args, **kwargs)

    DualTransformer2DModel.forward = without_mask


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    let_dual_transformers_run()
    cases, tensors = run_cases(out, CASES, run_case)
    write(out, "unet_2d_condition", tensors, cases=cases)


if __name__ == "__main__":
    main()
