"""Golden trajectories of diffusers' scripts train_text_to_image_lora.py and train_text_to_image_lora_sdxl.py: ten optimizer
steps of the adapters of tiny models.

    python tests/reference/lora_training.py --out tests/golden

reads the data of tests/golden/text_to_image.safetensors and makes lora_training.safetensors.
"""

import argparse
import json
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import save_file
from text_to_image import FOLDER, XL, train


def add_adapters(module, **options):
    text = module.__class__.__name__.startswith("CLIP")
    targets = ["q_proj", "k_proj", "v_proj", "out_proj"] if text else ["to_k", "to_q", "to_v", "to_out.0"]
    dtype = next(module.parameters()).dtype
    inject_adapter_in_model(
        LoraConfig(**{"r": 4, "lora_alpha": 4, "init_lora_weights": "gaussian", "target_modules": targets, **options}), module)
    module.to(dtype).train()


CONVOLUTIONS = ["to_q", "conv_in", "conv1", "conv2", "conv_shortcut", "proj_in", "downsamplers.0.conv"]
CASES = {
    "sd": {"add_adapters": add_adapters},
    "text": {"add_adapters": add_adapters, "train_text_encoder": True},
    "xl": {"add_adapters": add_adapters, "unet": XL, "proportion_empty_prompts": 0.3},
    "conv": {"add_adapters": lambda module: add_adapters(module, target_modules=CONVOLUTIONS)},
    "dora": {"add_adapters": lambda module: add_adapters(module, use_dora=True, r=2), "prediction_type": "v_prediction"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    golden = Path(__file__).parent.parent / "golden"
    parser.add_argument("--out", type=Path, default=golden)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with safe_open(golden / "text_to_image.safetensors", "pt") as file:
        data = {name: file.get_tensor(name) for name in ("images", "original_sizes", "crop_top_lefts")}
        data["captions"] = json.loads(file.metadata()["captions"])
    tensors = {}
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.float64):
            key = f"{name}.{str(dtype).removeprefix('torch.')}"
            tensors[f"{key}.losses"], tensors[f"{key}.weights"] = train(FOLDER, data, case, dtype)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "lora_training.safetensors")


if __name__ == "__main__":
    main()
