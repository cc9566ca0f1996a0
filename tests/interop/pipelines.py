#!/usr/bin/env python3
"""The Python side of the exchange of the inpainting, ControlNet and Stable Diffusion XL pipelines.

    pipelines.py save DIR     saves them and what they draw
    pipelines.py check DIR    opens what pipelines.cpp saved, and compares what it draws
"""
import pathlib
import sys

import torch
from diffusers import (
    DiffusionPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
from stable_diffusion import UNET, tiny_pipeline  # noqa: E402
from stable_diffusion_pipelines import seeded_controlnet, tiny_xl  # noqa: E402

CLASSES = {
    "inpaint": StableDiffusionInpaintPipeline,
    "controlnet": StableDiffusionControlNetPipeline,
    "xl": StableDiffusionXLPipeline,
    "xl_image": StableDiffusionXLImg2ImgPipeline,
}


def drawn(pipelines, tensors):
    image = tensors["image"]
    options = {
        "inpaint": {"image": image, "mask_image": tensors["mask"], "strength": 0.7},
        "controlnet": {"image": [image, tensors["other"]], "controlnet_conditioning_scale": [0.5, 0.8]},
        "xl": {"prompt_2": "dog", "negative_prompt": "a dog"},
        "xl_image": {"image": image, "strength": 0.7},
    }
    result = {}
    for name, pipeline in pipelines.items():
        pipeline.set_progress_bar_config(disable=True)
        result[name] = pipeline("a cat", num_inference_steps=3, output_type="pt",
                                generator=torch.Generator().manual_seed(3), **options[name]).images.contiguous()  # fmt: skip
    return result


def save(folder):
    stable = tiny_pipeline(folder)
    parts = {**stable.components, "requires_safety_checker": False}
    nets = [seeded_controlnet(seed, stable.unet) for seed in (1, 2)]
    xl = tiny_xl(stable.tokenizer)
    pipelines = {
        "inpaint": StableDiffusionInpaintPipeline(
            **{**parts, "unet": UNet2DConditionModel(**{**UNET, "in_channels": 9})}),
        "controlnet": StableDiffusionControlNetPipeline(**parts, controlnet=nets),
        "xl": xl,
        "xl_image": StableDiffusionXLImg2ImgPipeline(**xl.components, add_watermarker=False),
    }  # fmt: skip
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(folder / name)
        for part in pipeline.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval()
    tensors = {"image": torch.rand(1, 3, 16, 16), "other": torch.rand(1, 3, 16, 16), "mask": torch.rand(1, 1, 16, 16)}
    save_file({**tensors, **drawn(pipelines, tensors)}, folder / "images.safetensors")


def check(folder):
    pipelines = {name: DiffusionPipeline.from_pretrained(folder / name) for name in CLASSES}
    for name, pipeline in pipelines.items():
        assert type(pipeline) is CLASSES[name], f"{name} is a {type(pipeline).__name__}"
    tensors = load_file(folder / "images.safetensors")
    for name, found in drawn(pipelines, tensors).items():
        torch.testing.assert_close(found, tensors[name], rtol=1e-4, atol=1e-4, msg=lambda m: f"{name}: {m}")


if __name__ == "__main__":
    action, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"save": save, "check": check}[action](folder)
