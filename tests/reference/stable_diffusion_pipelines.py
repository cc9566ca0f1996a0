"""Golden files of the inpainting, ControlNet and Stable Diffusion XL pipelines.

    python tests/reference/stable_diffusion_pipelines.py --out tests/golden

makes the folder tiny_stable_diffusion_xl/, stable_diffusion_pipelines.safetensors (what Python draws from it and from
tiny_stable_diffusion/, which stable_diffusion.py makes) and stable_diffusion_pipelines.json (the model_index.json of
each class).
Models that stand in no folder are drawn from a seed, which gives the same weights in C++.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent))
from models import pattern  # noqa: E402
from stable_diffusion import UNET  # noqa: E402

XL_UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(4, 8), layers_per_block=1,
    norm_num_groups=2, cross_attention_dim=16, attention_head_dim=2, use_linear_projection=True,
    addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=32)  # fmt: skip
GOLDEN = Path(__file__).resolve().parent.parent / "golden"
TWO = ["a red cat", "a blue, blue dog!"]


def draw_images(generator_seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(generator_seed))


def heeding(*models):
    """Prompts that matter: fresh weights hardly heed them."""
    with torch.no_grad():
        for model in models:
            for name, parameter in model.named_parameters():
                if "attn2.to_v.weight" in name or "token_embedding" in name:
                    parameter *= 8


def tiny_xl(tokenizer) -> StableDiffusionXLPipeline:
    torch.manual_seed(20)
    unet = UNet2DConditionModel(**XL_UNET)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4), layers_per_block=1, norm_num_groups=2, sample_size=16, scaling_factor=0.13025)  # fmt: skip
    text = dict(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, projection_dim=8)  # fmt: skip
    text_encoder = CLIPTextModel(CLIPTextConfig(**text))
    text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**text, hidden_act="gelu"))
    heeding(unet, text_encoder, text_encoder_2)
    with torch.no_grad():
        vae.decoder.conv_out.weight *= 2
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1)  # fmt: skip
    return StableDiffusionXLPipeline(vae, text_encoder, text_encoder_2, tokenizer, tokenizer, unet, scheduler,
                                     add_watermarker=False)  # fmt: skip


def seeded_controlnet(seed, unet, pooled=False):
    """A ControlNet whose zero-initialised layers have an effect."""
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8), load_weights_from_unet=not pooled)
    net.register_to_config(global_pool_conditions=pooled)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("controlnet_"):
                parameter += 0.1 * pattern(parameter.shape)
    return net.eval()


class Drawing:
    def __init__(self):
        self.tensors = {}

    def __call__(self, name, pipeline, scheduler=None, **options):
        if scheduler is not None:
            pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        settings = {"prompt": "a red cat", "num_inference_steps": 5, "output_type": "pt", **options}
        if settings["prompt"] is None:
            del settings["prompt"]
        result = pipeline(generator=torch.Generator().manual_seed(7), **settings).images.contiguous()
        if settings["output_type"] == "pt":
            inside = ((result > 0) & (result < 1)).float().mean().item()
            assert inside > 0.4 and result.std() > 0.02, f"{name}: {inside:.0%} not clamped, spread {result.std():.3f}"
        # Continued latents give the image of the whole run; every other option changes the image.
        same = [key for key, value in self.tensors.items() if value.shape == result.shape and torch.equal(value, result)]
        assert same == (["xl_euler"] if name == "xl_image_start" else []), f"{name} is {same}"
        self.tensors[name] = result
        return result


def inpaint(draw, folder):
    image, mask = draw_images(9, 1, 3, 16, 16), (draw_images(11, 1, 1, 16, 16) > 0.5).float()
    images, masks = draw_images(12, 2, 3, 16, 16), draw_images(13, 2, 1, 16, 16)
    odd, odd_mask = draw_images(14, 1, 3, 19, 25), draw_images(15, 1, 1, 19, 25)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(16))
    draw.tensors.update({"image": image, "mask": mask, "images": images, "masks": masks, "odd": odd,
                         "odd_mask": odd_mask, "inpaint_latents": latents})  # fmt: skip

    def pipeline(channels=4):
        made = StableDiffusionInpaintPipeline.from_pretrained(folder)
        if channels == 9:
            torch.manual_seed(6)
            made.unet = UNet2DConditionModel(**{**UNET, "in_channels": 9}).eval()
        return made

    both = {"image": image, "mask_image": mask}
    two = {"prompt": TWO, "image": images, "mask_image": masks, "num_images_per_prompt": 2}
    negative = {"negative_prompt": "a blue dog"}
    for channels in 4, 9:
        draw(f"inpaint{channels}_pndm", pipeline(channels), **both, **negative)
        draw(f"inpaint{channels}_ddim_part", pipeline(channels), DDIMScheduler, **both, strength=0.6, eta=0.5)
        draw(f"inpaint{channels}_ddim_eta", pipeline(channels), DDIMScheduler, **both, eta=0.5)
        draw(f"inpaint{channels}_unguided", pipeline(channels), DDIMScheduler, **both, guidance_scale=1.0)
        draw(f"inpaint{channels}_euler", pipeline(channels), EulerDiscreteScheduler, **both, strength=0.8)
        draw(f"inpaint{channels}_heun", pipeline(channels), HeunDiscreteScheduler, **both, strength=0.6)
        draw(f"inpaint{channels}_two", pipeline(channels), DDIMScheduler, **two)
        draw(f"inpaint{channels}_odd", pipeline(channels), DDIMScheduler, image=odd, mask_image=odd_mask, eta=0.5)
        draw(f"inpaint{channels}_size", pipeline(channels), DDIMScheduler, **both, height=24, width=18)
        draw(f"inpaint{channels}_latents", pipeline(channels), DDIMScheduler, **both, latents=latents, strength=0.6)
    draw("inpaint9_masked_latents", pipeline(9), DDIMScheduler, **both, masked_image_latents=latents)
    return pipeline()


def controlnet(draw, folder):
    base = StableDiffusionInpaintPipeline.from_pretrained(folder)
    nets = [seeded_controlnet(7, base.unet), seeded_controlnet(8, base.unet)]
    pooled = seeded_controlnet(9, base.unet, pooled=True)
    image, images, odd = draw.tensors["image"], draw.tensors["images"], draw.tensors["odd"]

    def pipeline(controlnet):
        return StableDiffusionControlNetPipeline.from_pretrained(folder, controlnet=controlnet)

    one, ddim = pipeline(nets[0]), DDIMScheduler
    negative = {"negative_prompt": "a blue dog"}
    draw("control_pndm", pipeline(nets[0]), image=image, **negative)
    draw("control_unguided", one, ddim, image=image, guidance_scale=1.0)
    draw("control_guess", one, ddim, image=image, guidance_scale=4.0, guess_mode=True)
    draw("control_guess_unguided", one, ddim, image=image, guidance_scale=1.0, guess_mode=True)
    draw("control_part", one, ddim, image=image, controlnet_conditioning_scale=0.5, control_guidance_start=0.2,
         control_guidance_end=0.7)  # fmt: skip
    draw("control_none", one, ddim, image=image, control_guidance_start=0.05, control_guidance_end=0.1)
    draw("control_two_prompts", one, ddim, prompt=TWO, image=images, num_images_per_prompt=2)
    draw("control_size", one, ddim, image=odd, height=24, width=17)
    draw("control_odd", one, ddim, image=odd)
    draw("control_pooled", pipeline(pooled), ddim, image=image, **negative)
    draw("control_two_nets", pipeline(nets), ddim, image=[image, images[:1]], controlnet_conditioning_scale=[0.7, 1.3],
         control_guidance_start=[0.0, 0.4], control_guidance_end=[0.6, 1.0])  # fmt: skip
    draw("control_two_guess", pipeline(nets), EulerDiscreteScheduler, image=[image, images[:1]], guess_mode=True)
    return one, pipeline(nets)


def xl(draw, folder):
    image = draw.tensors["image"]
    embeds = [torch.randn(*shape, generator=torch.Generator().manual_seed(17)) for shape in ((1, 7, 16), (1, 8))]
    draw.tensors.update({"xl_prompt_embeds": embeds[0], "xl_pooled_prompt_embeds": embeds[1]})
    texts = {"prompt_2": "a blue cat", "negative_prompt": "a blue dog", "negative_prompt_2": "dog"}
    sizes = {"original_size": (32, 48), "crops_coords_top_left": (3, 5), "target_size": (20, 24),
             "negative_original_size": (10, 12), "negative_target_size": (30, 40)}  # fmt: skip

    def pipeline(cls=StableDiffusionXLPipeline, **changes):
        return cls.from_pretrained(folder, add_watermarker=False, **changes)

    draw("xl_euler", pipeline())
    draw("xl_texts", pipeline(), **texts)
    draw("xl_unguided", pipeline(), guidance_scale=1.0)
    draw("xl_empty_negative", pipeline(), negative_prompt="")
    draw("xl_no_zeros", pipeline(force_zeros_for_empty_prompt=False), negative_prompt_2="dog")
    draw("xl_sizes", pipeline(), **sizes, negative_crops_coords_top_left=(1, 2))
    draw("xl_sizes_two", pipeline(), prompt=TWO, num_images_per_prompt=2, **sizes)
    draw("xl_rescale", pipeline(), guidance_rescale=0.7)
    draw("xl_clip_skip", pipeline(), clip_skip=1, **texts)
    draw("xl_embeds", pipeline(), prompt=None, prompt_embeds=embeds[0], pooled_prompt_embeds=embeds[1])
    draw("xl_size", pipeline(), height=24, width=16)
    draw("xl_ddim_eta", pipeline(), DDIMScheduler, eta=0.5)
    draw("xl_latents", pipeline(), latents=draw.tensors["inpaint_latents"])
    latents = draw("xl_end", pipeline(), denoising_end=0.6, output_type="latent")
    statistics = pipeline()
    statistics.vae.register_to_config(latents_mean=[0.1, -0.2, 0.3, 0.4], latents_std=[1.5, 0.8, 1.2, 0.7])
    draw("xl_statistics", statistics)

    image_class = StableDiffusionXLImg2ImgPipeline
    draw("xl_image_euler", pipeline(image_class), image=image, strength=0.6, **texts)
    draw("xl_image_ddim", pipeline(image_class), DDIMScheduler, image=image, strength=1.0, eta=0.5)
    draw("xl_image_sizes", pipeline(image_class), image=image, strength=0.6, prompt=TWO, num_images_per_prompt=2, **sizes)
    draw("xl_image_start", pipeline(image_class), image=latents, denoising_start=0.6)
    draw("xl_image_start_end", pipeline(image_class), image=latents, denoising_start=0.3, denoising_end=0.7)
    draw("xl_image_start_heun", pipeline(image_class), HeunDiscreteScheduler, image=latents, denoising_start=0.5)
    statistics = image_class(**statistics.components, add_watermarker=False)
    draw("xl_image_statistics", statistics, image=image, strength=0.6)

    refiner = pipeline(image_class, requires_aesthetics_score=True, text_encoder=None, tokenizer=None)
    torch.manual_seed(10)
    refiner.unet = UNet2DConditionModel(
        **{**XL_UNET, "cross_attention_dim": 8, "projection_class_embeddings_input_dim": 28}).eval()  # fmt: skip
    draw("xl_refiner", refiner, image=image, strength=0.6, negative_prompt="a blue dog")
    draw("xl_refiner_score", refiner, image=image, strength=0.6, aesthetic_score=3.0, negative_aesthetic_score=1.0,
         crops_coords_top_left=(3, 5), negative_crops_coords_top_left=(1, 2))  # fmt: skip
    return pipeline(), pipeline(image_class), refiner


def index_of(pipeline):
    """The model_index.json that Python writes."""
    with tempfile.TemporaryDirectory() as folder:
        pipeline.save_pretrained(folder)
        index = json.loads((Path(folder) / "model_index.json").read_text())
    index.pop("_name_or_path", None)  # where the parts came from
    return index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=GOLDEN)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    stable, folder = GOLDEN / "tiny_stable_diffusion", out / "tiny_stable_diffusion_xl"
    tiny_xl(CLIPTokenizer.from_pretrained(stable / "tokenizer")).save_pretrained(folder)

    draw = Drawing()
    pipelines = [inpaint(draw, stable), *controlnet(draw, stable), *xl(draw, folder)]
    names = ["inpaint", "controlnet", "controlnets", "xl", "xl_image", "xl_refiner"]
    indexes = {name: index_of(pipeline) for name, pipeline in zip(names, pipelines, strict=True)}
    (out / "stable_diffusion_pipelines.json").write_text(json.dumps(indexes, indent=1, sort_keys=True) + "\n")
    save_file(draw.tensors, out / "stable_diffusion_pipelines.safetensors")


if __name__ == "__main__":
    main()
