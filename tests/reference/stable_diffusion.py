"""Golden files of the Stable Diffusion pipelines: a tiny folder saved by Python, and its images.

    python tests/reference/stable_diffusion.py --out tests/golden

makes the folder tiny_stable_diffusion/ and stable_diffusion.safetensors.
"""

import argparse
import shutil
import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    TCDScheduler,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "interop"))
from clip_vocabulary import write as write_vocabulary  # noqa: E402

MERGES = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>"), ("r", "e"), ("re", "d</w>"), ("b", "l"),
          ("bl", "u"), ("blu", "e</w>")]  # fmt: skip
UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(8, 16), layers_per_block=1,
    norm_num_groups=4, cross_attention_dim=16, attention_head_dim=2,
    # Dropout shows whether sampling runs in eval mode.
    dropout=0.1)  # fmt: skip


def tiny_pipeline(out: Path) -> StableDiffusionPipeline:
    vocabulary = out / "vocabulary"
    write_vocabulary(vocabulary, MERGES)
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    shutil.rmtree(vocabulary)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, sample_size=16)  # fmt: skip
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id))  # fmt: skip
    with torch.no_grad():
        # Increases the contrast and the influence of prompts, which is small with initial weights.
        vae.decoder.conv_out.weight *= 2
        for name, parameter in [*unet.named_parameters(), *text_encoder.named_parameters()]:
            if "attn2.to_v.weight" in name or "token_embedding" in name:
                parameter *= 8
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, set_alpha_to_one=False,
        steps_offset=1)  # fmt: skip
    return StableDiffusionPipeline(vae, text_encoder, tokenizer, unet, scheduler, None, None,
                                   requires_safety_checker=False)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    folder = out / "tiny_stable_diffusion"
    tiny_pipeline(out).save_pretrained(folder)
    tensors = {}

    def draw(name, cls=StableDiffusionPipeline, scheduler=None, scheduler_options=None, unet=None, **options):
        pipeline = cls.from_pretrained(folder)
        parts = {key: value for key, value in pipeline.components.items()}
        if scheduler is not None:
            parts["scheduler"] = scheduler.from_config(pipeline.scheduler.config, **(scheduler_options or {}))
        if unet is not None:
            parts["unet"] = unet
        pipeline = cls(**parts, requires_safety_checker=False)
        pipeline.set_progress_bar_config(disable=True)
        settings = {"prompt": "a red cat", "num_inference_steps": 5, "output_type": "pt", **options}
        if settings["prompt"] is None:
            del settings["prompt"]
        result = pipeline(generator=torch.Generator().manual_seed(7), **settings).images.contiguous()
        if settings["output_type"] == "pt":
            inside = ((result > 0) & (result < 1)).float().mean().item()
            assert inside > 0.5 and result.std() > 0.02, f"{name}: {inside:.0%} not clamped, spread {result.std():.3f}"
        tensors[name] = result
        return result

    negative = {"negative_prompt": "a blue dog"}
    guided = draw("pndm", **negative)
    plain = draw("pndm_unguided", guidance_scale=1.0)
    assert (guided - plain).abs().max() > 1e-2, (guided - plain).abs().max()
    draw("pndm_latent", output_type="latent")
    draw("ddim", scheduler=DDIMScheduler, **negative)
    draw("ddim_latent", scheduler=DDIMScheduler, output_type="latent", **negative)
    draw("ddim_unguided", scheduler=DDIMScheduler, guidance_scale=1.0)
    draw("ddim_eta", scheduler=DDIMScheduler, eta=0.7)
    draw("ddim_v", scheduler=DDIMScheduler, scheduler_options={"prediction_type": "v_prediction"})
    draw("ddim_rescale", scheduler=DDIMScheduler, guidance_rescale=0.7)
    draw("ddim_size", scheduler=DDIMScheduler, height=24, width=16)
    two = ["a red cat", "a blue, blue dog!"]
    draw("ddim_two_prompts", scheduler=DDIMScheduler, prompt=two, negative_prompt=["dog", ""], num_images_per_prompt=2)
    tensors["latents"] = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    draw("ddim_latents", scheduler=DDIMScheduler, latents=tensors["latents"])
    tensors["prompt_embeds"] = torch.randn(1, 7, 16, generator=torch.Generator().manual_seed(4))
    draw("ddim_embeds", scheduler=DDIMScheduler, prompt=None, prompt_embeds=tensors["prompt_embeds"])
    draw("euler", scheduler=EulerDiscreteScheduler, **negative)
    draw("euler_timesteps", scheduler=EulerDiscreteScheduler, timesteps=[801, 601, 401, 101])
    draw("euler_sigmas", scheduler=EulerDiscreteScheduler, sigmas=[10.0, 4.0, 1.0, 0.2])
    draw("tcd_eta", scheduler=TCDScheduler, eta=0.4)
    torch.manual_seed(5)
    draw("lcm_guidance_input", scheduler=LCMScheduler, unet=UNet2DConditionModel(**UNET, time_cond_proj_dim=9).eval())

    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    odd = torch.rand(3, 19, 25, generator=torch.Generator().manual_seed(10))
    tensors.update({"image": image, "odd_image": odd})
    img2img = {"cls": StableDiffusionImg2ImgPipeline, "image": image}
    draw("img2img_pndm", **img2img, strength=0.6, **negative)
    draw("img2img_ddim", **img2img, scheduler=DDIMScheduler, **negative)
    draw("img2img_ddim_full", **img2img, scheduler=DDIMScheduler, strength=1.0, eta=0.5)
    draw("img2img_euler", **img2img, scheduler=EulerDiscreteScheduler, strength=0.5)
    draw("img2img_heun", **img2img, scheduler=HeunDiscreteScheduler, strength=0.5, guidance_scale=1.0)
    draw("img2img_two_prompts", **img2img, scheduler=DDIMScheduler, prompt=two, num_images_per_prompt=2)
    draw("img2img_odd", cls=StableDiffusionImg2ImgPipeline, image=odd, scheduler=DDIMScheduler)
    draw("img2img_signed", cls=StableDiffusionImg2ImgPipeline, image=2 * image - 1, scheduler=DDIMScheduler)
    draw("img2img_from_latents", cls=StableDiffusionImg2ImgPipeline, image=tensors["latents"], scheduler=DDIMScheduler)

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    # In transformers 5 the final layer norm is not at the place where the pipeline looks for it.
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    pipeline.set_progress_bar_config(disable=True)
    tensors["pndm_clip_skip"] = pipeline(
        "a red cat", num_inference_steps=5, clip_skip=1, generator=torch.Generator().manual_seed(7), output_type="pt"
    ).images.contiguous()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "stable_diffusion.safetensors",
              {"format": "pt"})  # fmt: skip


if __name__ == "__main__":
    main()
