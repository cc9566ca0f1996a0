#!/usr/bin/env python3
"""The Python side of the exchange of a Stable Diffusion pipeline, a ControlNet, a VQModel and an AutoencoderTiny.

    models.py save DIR     saves them and their outputs for some inputs
    models.py check DIR    opens what models.cpp saved, and compares
"""
import pathlib
import sys

import torch
from diffusers import (AutoencoderKL, AutoencoderTiny, ControlNetModel, StableDiffusionPipeline, UNet2DConditionModel,
                       VQModel)  # fmt: skip
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "reference"))
from stable_diffusion import tiny_pipeline  # noqa: E402


@torch.no_grad()
def outputs(pipeline, controlnet, vq, tiny, tensors):
    arguments = tensors["sample"], tensors["timesteps"], tensors["states"]
    residuals = controlnet(*arguments, tensors["condition"])
    result = {"vq": vq(tensors["image"]).sample, "tiny_latents": tiny.encode(tensors["image"]).latents,
              "tiny": tiny.decode(tensors["sample"]).sample,
              "mean": pipeline.vae.encode(tensors["image"]).latent_dist.mode(),
              "mid": residuals.mid_block_res_sample, "unet": pipeline.unet(*arguments).sample}  # fmt: skip
    for i, tensor in enumerate(residuals.down_block_res_samples):
        result[f"down{i}"] = tensor
    pipeline.set_progress_bar_config(disable=True)
    result["drawn"] = pipeline("a cat", num_inference_steps=3, negative_prompt="dog", output_type="pt",
                               generator=torch.Generator().manual_seed(3)).images  # fmt: skip
    return {name: tensor.contiguous() for name, tensor in result.items()}


def save(folder):
    pipeline = tiny_pipeline(folder)
    controlnet = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(8, 8))
    with torch.no_grad():
        # These weights are initialised to zeros, which would hide differences.
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_()
    vq = VQModel(block_out_channels=(8,), num_vq_embeddings=16, norm_num_groups=4)
    tiny = AutoencoderTiny(encoder_block_out_channels=(6, 6), decoder_block_out_channels=(6, 6), upsample_fn="bilinear",
                           num_encoder_blocks=(1, 2), num_decoder_blocks=(2, 1))  # fmt: skip
    pipeline.save_pretrained(folder / "pipeline")
    controlnet.save_pretrained(folder / "controlnet")
    vq.save_pretrained(folder / "vq")
    tiny.save_pretrained(folder / "tiny")
    for model in (controlnet, vq, tiny, pipeline.unet, pipeline.vae, pipeline.text_encoder):
        model.eval()
    tensors = {"sample": torch.randn(2, 4, 8, 8), "timesteps": torch.tensor([7, 700]),
               "states": torch.randn(2, 5, 16), "condition": torch.rand(2, 3, 16, 16),
               "image": torch.rand(1, 3, 16, 16)}  # fmt: skip
    save_file({**tensors, **outputs(pipeline, controlnet, vq, tiny, tensors)}, folder / "models.safetensors")


def check(folder):
    def load(cls, name):
        model, report = cls.from_pretrained(folder / name, output_loading_info=True)
        problems = {key: value for key, value in report.items() if value}
        assert not problems, f"{name}: {problems}"
        return model.eval()

    controlnet, vq = load(ControlNetModel, "controlnet"), load(VQModel, "vq")
    tiny = load(AutoencoderTiny, "tiny")
    for cls, name in [(UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder")]:
        load(cls, f"pipeline/{name}")
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "pipeline")
    tensors = load_file(folder / "models.safetensors")
    for name, found in outputs(pipeline, controlnet, vq, tiny, tensors).items():
        largest = tensors[name].abs().max().item()
        torch.testing.assert_close(found, tensors[name], rtol=1e-4, atol=1e-4 * largest, msg=lambda m: f"{name}: {m}")


if __name__ == "__main__":
    action, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"save": save, "check": check}[action](folder)
