"""Golden trajectories of diffusers' scripts train_dreambooth.py, train_dreambooth_lora.py and train_dreambooth_lora_sdxl.py
with prior preservation: ten optimizer steps of tiny models. The rows of a batch are two instances and two class images.

    python tests/reference/dreambooth.py --out tests/golden

reads the data of tests/golden/text_to_image.safetensors and makes dreambooth.safetensors.
"""

import argparse
import json
from pathlib import Path

import torch
from lora_training import add_adapters
from safetensors import safe_open
from safetensors.torch import save_file
from text_to_image import BATCH, FOLDER, STEPS, XL, train

PROMPTS = ["a red cat", "cat"]

CASES = {
    "unet": {"prior_loss_weight": 1.0, "noise_offset": 0.1},
    "text": {"prior_loss_weight": 0.7, "train_text_encoder": True},
    "lora": {"prior_loss_weight": 0.7, "add_adapters": add_adapters, "prediction_type": "v_prediction"},
    "lora_text": {"prior_loss_weight": 1.0, "add_adapters": add_adapters, "train_text_encoder": True},
    "lora_xl": {"prior_loss_weight": 0.7, "add_adapters": add_adapters, "unet": XL},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    golden = Path(__file__).parent.parent / "golden"
    parser.add_argument("--out", type=Path, default=golden)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    half = BATCH // 2
    captions = (PROMPTS[:1] * half + PROMPTS[1:] * half) * STEPS
    with safe_open(golden / "text_to_image.safetensors", "pt") as file:
        data = {name: file.get_tensor(name) for name in ("images", "original_sizes", "crop_top_lefts")}
    data["captions"] = captions
    tensors = {}
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.float64):
            key = f"{name}.{str(dtype).removeprefix('torch.')}"
            tensors[f"{key}.losses"], tensors[f"{key}.weights"] = train(FOLDER, data, case, dtype)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "dreambooth.safetensors",
              {"captions": json.dumps(captions)})  # fmt: skip


if __name__ == "__main__":
    main()
