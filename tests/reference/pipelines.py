"""Golden tensors of DDPMPipeline and DDIMPipeline: a tiny pipeline folder saved by Python, and its images."""

import argparse
from pathlib import Path

import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file


def tiny_pipeline() -> DDPMPipeline:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=(8, 12),
        in_channels=1,
        out_channels=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=4,
        # Dropout shows whether sampling runs in eval mode.
        dropout=0.1,
    )
    scheduler = DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2")
    return DDPMPipeline(unet, scheduler)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    pipeline = tiny_pipeline()
    pipeline.save_pretrained(out / "tiny_ddpm_pipeline")
    pipeline = DDPMPipeline.from_pretrained(out / "tiny_ddpm_pipeline")
    pipeline.set_progress_bar_config(disable=True)

    def draw(a_pipeline, **options) -> torch.Tensor:
        generator = torch.Generator().manual_seed(7)
        return a_pipeline(batch_size=3, generator=generator, output_type="pt", **options).images.contiguous()

    ddim = DDIMPipeline(pipeline.unet, pipeline.scheduler)
    ddim.set_progress_bar_config(disable=True)
    images = {
        "ddpm": draw(pipeline, num_inference_steps=6),
        "ddim": draw(ddim, num_inference_steps=6),
        "ddim_eta": draw(ddim, num_inference_steps=6, eta=0.5),
        "ddim_eta_clipped": draw(ddim, num_inference_steps=6, eta=0.5, use_clipped_model_output=True),
        # DDPMPipeline uses a DDIM scheduler without conversion.
        "ddpm_with_ddim_scheduler": draw(DDPMPipeline(pipeline.unet, ddim.scheduler), num_inference_steps=4),
    }
    for name, image in images.items():
        inside = ((image > 0) & (image < 1)).float().mean().item()
        assert inside > 0.3, f"{name}: only {inside:.0%} of the pixels are not clamped"
    save_file(images, out / "pipelines.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
