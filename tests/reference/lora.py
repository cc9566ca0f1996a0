"""Golden tensors of LoRA adapters: PEFT 0.21.2 with models of diffusers 0.42.1 and transformers 5.

    python tests/reference/lora.py --out tests/golden

makes lora.safetensors. For each case and dtype it has the initial weights of the adapters, the output and the gradients
after a change of B, the output with fused weights, and the losses and weights of ten steps of AdamW.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

STEPS = 10
SEED = 5
UNET = {
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
TEXT = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 10,
    "bos_token_id": 0,
    "eos_token_id": 19,
}

ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]
CONV = ["conv1", "conv_shortcut", "downsamplers.0.conv", "proj_in", "time_emb_proj"]
# name -> model, configs of the adapters, weights of set_adapters
CASES = {
    "gaussian": {"adapters": [{"r": 3, "lora_alpha": 4, "init_lora_weights": "gaussian", "target_modules": ATTENTION}]},
    "conv": {"adapters": [{"r": 2, "lora_alpha": 3, "target_modules": CONV}]},
    "dora": {"adapters": [{"r": 2, "lora_alpha": 3, "target_modules": ["to_k", "to_out.0", *CONV], "use_dora": True}]},
    "rslora": {"adapters": [{"r": 3, "lora_alpha": 4, "target_modules": ["to_q"], "use_rslora": True}]},
    "patterns": {"adapters": [{
        "r": 2, "lora_alpha": 3, "target_modules": ["to_k", "to_q", "conv1"],
        "rank_pattern": {"to_k": 1, "up_blocks.*conv1": 4}, "alpha_pattern": {"^mid_block.attentions.0.*to_q": 5}}]},
    "regex": {"adapters": [{"r": 2, "target_modules": r"(mid_block|up_blocks\.1).*to_[qv]", "exclude_modules": r".*attn2.*",
                            "init_lora_weights": False}]},
    "two": {"adapters": [{"r": 2, "target_modules": ["to_k", "conv1"]}, {"r": 3, "target_modules": ["to_q", "to_k"]}],
            "weights": [0.7, -0.4]},
    "two_dora": {"adapters": [{"r": 2, "target_modules": ["to_k", "conv1"], "use_dora": True},
                              {"r": 1, "target_modules": ["conv1", "to_k"], "use_dora": True}], "weights": [0.5, 1.5]},
    "dropout": {"adapters": [{"r": 2, "lora_dropout": 0.4, "target_modules": ["to_k", "conv1"]}]},
    "dora_dropout": {"adapters": [{"r": 2, "lora_dropout": 0.4, "target_modules": ["to_k", "conv1"], "use_dora": True}]},
    "text": {"text": True, "adapters": [{"r": 2, "lora_alpha": 2, "init_lora_weights": "gaussian",
                                         "target_modules": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]}]},
}  # fmt: skip


def pattern(shape, dtype):
    """Returns numbers that both languages compute equally."""
    count = torch.Size(shape).numel()
    return torch.cos(torch.arange(count, dtype=torch.float32)).reshape(shape).to(dtype)


def adapter_parameters(model):
    return {name: p for name, p in model.named_parameters() if ".lora_" in name}


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def run(case, dtype):
    torch.manual_seed(SEED)
    model = CLIPTextModel(CLIPTextConfig(**TEXT)) if case.get("text") else UNet2DConditionModel(**UNET)
    model = model.to(dtype)
    torch.manual_seed(SEED + 1)
    names = []
    for index, config in enumerate(case["adapters"]):
        names.append("default" if index == 0 else f"adapter_{index}")
        if case.get("text"):
            # CLIPTextModel.add_adapter of transformers 5.24 asks for PEFT 0.22, which is not released, and does the same.
            inject_adapter_in_model(LoraConfig(**config), model, names[-1])
        else:
            model.add_adapter(LoraConfig(**config), names[-1])
    if "weights" in case:
        model.set_adapters(names, case["weights"])
    model.train()
    parameters = adapter_parameters(model)
    assert all(p.requires_grad for p in parameters.values())
    assert not any(p.requires_grad for name, p in model.named_parameters() if name not in parameters)
    result = {"initial": flat(parameters.values())}
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B." in name:
                parameter += 0.2 * pattern(parameter.shape, dtype)

    if case.get("text"):
        ids = torch.tensor([[0, 3, 7, 11, 19], [0, 5, 2, 19, 19]])
        call = lambda: model(ids).last_hidden_state  # noqa: E731
        target = pattern((2, 5, 8), dtype)
    else:
        sample = pattern((2, 2, 8, 8), dtype)
        states = pattern((2, 3, 6), dtype)
        timesteps = torch.tensor([3, 500])
        call = lambda: model(sample, timesteps, states).sample  # noqa: E731
        target = 0.5 * pattern((2, 2, 8, 8), dtype) ** 2
    torch.manual_seed(SEED + 2)
    output = call()
    result["output"] = output.detach()
    ((output - target) ** 2).mean().backward()
    result["gradients"] = flat(p.grad for p in parameters.values())

    if not case.get("text"):
        model.fuse_lora(0.9)
        result["fused"] = call().detach()
        model.unfuse_lora()
        model.set_adapters(names, case.get("weights", [1.0] * len(names)))
    # With the default eps, the sign of a gradient near zero decides on a whole step, so rounding would be amplified.
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-2, eps=1e-4)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = ((call() - target) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    result["losses"] = torch.tensor(losses, dtype=torch.float64)
    result["trained"] = flat(parameters.values())
    return result, list(parameters)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    tensors, metadata = {}, {}
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.float64):
            result, parameters = run(case, dtype)
            metadata[name] = parameters
            for key, tensor in result.items():
                tensors[f"{name}.{str(dtype).removeprefix('torch.')}.{key}"] = tensor.contiguous()
    names = {"unet": json.dumps(UNET), "text": json.dumps(TEXT), "cases": json.dumps(CASES), "names": json.dumps(metadata)}
    save_file(tensors, out / "lora.safetensors", metadata=names)


if __name__ == "__main__":
    main()
