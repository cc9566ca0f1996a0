"""Golden file of the T2I-adapter pipeline.

    python tests/reference/adapter_pipeline.py --out tests/golden

writes adapter_pipeline.safetensors, which holds the images that Python draws from tiny_stable_diffusion/ (see
stable_diffusion.py), and adapter_pipeline.json, the model_index.json of one adapter and of two. The adapters are drawn from a
seed, which gives the same weights in C++.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, MultiAdapter, StableDiffusionAdapterPipeline, T2IAdapter
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent))
from stable_diffusion_pipelines import GOLDEN, TWO, draw_images, index_of  # noqa: E402

ADAPTER = dict(in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=4, adapter_type="full_adapter_xl")


def seeded_adapter(seed):
    torch.manual_seed(seed)
    adapter = T2IAdapter(**ADAPTER)
    with torch.no_grad():
        # Features of the size of the UNet's hidden states.
        for parameter in adapter.parameters():
            parameter *= 1.5
    return adapter.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDEN)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    image, images = draw_images(9, 1, 3, 16, 16), draw_images(12, 2, 3, 16, 16)
    wide = draw_images(18, 1, 3, 16, 24)
    tensors = {"image": image, "images": images, "wide_image": wide}
    adapters = [seeded_adapter(21), seeded_adapter(22)]

    def pipeline(adapter):
        return StableDiffusionAdapterPipeline.from_pretrained(GOLDEN / "tiny_stable_diffusion", adapter=adapter)

    def draw(name, pipeline, scheduler=None, **options):
        if scheduler is not None:
            pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        settings = {"prompt": "a red cat", "num_inference_steps": 5, "output_type": "np", **options}
        result = pipeline(generator=torch.Generator().manual_seed(7), **settings).images
        if settings["output_type"] == "np":
            result = torch.from_numpy(result).permute(0, 3, 1, 2)
            inside = ((result > 0) & (result < 1)).float().mean().item()
            assert inside > 0.4 and result.std() > 0.02, f"{name}: {inside:.0%} not clamped, spread {result.std():.3f}"
        # Every option changes the image.
        for other, value in tensors.items():
            assert value.shape != result.shape or (value - result).abs().max() > 1e-3, f"{name} is {other}"
        tensors[name] = result.contiguous()

    one, two = pipeline(adapters[0]), pipeline(MultiAdapter(adapters))
    draw("pndm", pipeline(adapters[0]), image=image, negative_prompt="a blue dog")
    draw("ddim", one, DDIMScheduler, image=image)
    draw("unguided", one, DDIMScheduler, image=image, guidance_scale=1.0)
    draw("scale", one, DDIMScheduler, image=image, adapter_conditioning_scale=0.5)
    draw("none", one, DDIMScheduler, image=image, adapter_conditioning_scale=0.0)
    draw("per_prompt", one, DDIMScheduler, image=image, num_images_per_prompt=2)
    draw("two_prompts", one, DDIMScheduler, prompt=TWO, image=images)
    draw("wide", one, DDIMScheduler, image=wide, eta=0.5)
    draw("latent", one, EulerDiscreteScheduler, image=image, output_type="latent")
    draw("two_adapters", two, DDIMScheduler, image=[image, images[:1]], adapter_conditioning_scale=[0.7, 1.3])
    indexes = {name: index_of(pipeline) for name, pipeline in (("adapter", one), ("adapters", two))}
    (out / "adapter_pipeline.json").write_text(json.dumps(indexes, indent=1, sort_keys=True) + "\n")
    save_file(tensors, out / "adapter_pipeline.safetensors")


if __name__ == "__main__":
    main()
