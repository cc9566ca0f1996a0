#!/usr/bin/env python3
"""The Python side of the exchange test.

    exchange.py save DIR     saves a pipeline, an input and its UNet's output
    exchange.py check DIR    opens what exchange.cpp saved, and compares its UNet's output
"""
import json
import pathlib
import sys

import torch
from diffusers import ConsistencyModelPipeline, DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from safetensors.torch import load_file, save_file


def save(folder):
    torch.manual_seed(1)
    unet = UNet2DModel(
        sample_size=16, in_channels=2, out_channels=2, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=4)
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2", clip_sample=False)
    DDPMPipeline(unet, scheduler).save_pretrained(folder / "pipeline")
    sample, timesteps = torch.randn(3, 2, 16, 16), torch.tensor([0, 500, 999])
    noise = torch.randn(3, 2, 16, 16)
    with torch.no_grad():
        output = unet.eval()(sample, timesteps).sample
    save_file({"sample": sample, "timesteps": timesteps, "output": output, "noise": noise,
               "noisy": scheduler.add_noise(sample, noise, timesteps)}, folder / "exchange.safetensors")


def check(folder):
    pipeline = DDPMPipeline.from_pretrained(folder / "pipeline")
    tensors = load_file(folder / "exchange.safetensors")
    with torch.no_grad():
        output = pipeline.unet(tensors["sample"], tensors["timesteps"]).sample
    torch.testing.assert_close(output, tensors["output"], rtol=1e-4, atol=1e-4 * tensors["output"].abs().max().item())
    noisy = pipeline.scheduler.add_noise(tensors["sample"], tensors["noise"], tensors["timesteps"])
    torch.testing.assert_close(noisy, tensors["noisy"], rtol=1e-5, atol=1e-5)
    # Saving it again with Python gives the same configs, so no key is unknown or lost.
    pipeline.save_pretrained(folder / "again")
    for name in ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]:
        ours, theirs = ((folder / base / name).read_text() for base in ("pipeline", "again"))
        ours, theirs = json.loads(ours), json.loads(theirs)
        for config in (ours, theirs):
            config.pop("_name_or_path", None)
        assert ours == theirs, f"{name}: {ours} became {theirs}"
    assert pipeline.unet.config.block_out_channels == [8, 16], pipeline.unet.config
    assert pipeline.scheduler.config.prediction_type == "v_prediction", pipeline.scheduler.config
    # The output folders of trainings are pipelines, too.
    assert isinstance(DiffusionPipeline.from_pretrained(folder / "training"), DDPMPipeline)
    edm = DiffusionPipeline.from_pretrained(folder / "edm")
    assert isinstance(edm, ConsistencyModelPipeline), type(edm)
    assert edm.scheduler.config.sigma_data == 0.7, edm.scheduler.config
    images = edm(batch_size=2, num_inference_steps=4, latents=tensors["edm_noise"], output_type="pt").images
    torch.testing.assert_close(images, tensors["edm_images"], rtol=1e-4, atol=1e-4)


if __name__ == "__main__":
    action, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    {"save": save, "check": check}[action](folder)
