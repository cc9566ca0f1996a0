"""Golden tensors of latent diffusion: ten training steps of each conditioning key, and what LDMPipeline draws."""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, LDMPipeline, UNet2DConditionModel, UNet2DModel, VQModel
from safetensors.torch import save_file

STEPS, BATCH, SIDE = 10, 4, 8
LEARNING_RATE, EPSILON = 1e-3, 1e-6
DROPOUT = 0.4

# Those of tests/training/tiny_autoencoder.h.
BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
    "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
    "block_out_channels": (4, 8),
    "latent_channels": 2,
    "norm_num_groups": 2,
    "sample_size": SIDE,
}
UNET = {"sample_size": 4, "out_channels": 2, "block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}


def tiny_vae(kind):
    if kind == "vq":
        torch.manual_seed(22)
        return VQModel(num_vq_embeddings=16, **BLOCKS)
    torch.manual_seed(21)
    return AutoencoderKL(**BLOCKS)


def tiny_unet(in_channels, classes=None):
    torch.manual_seed(31)
    return UNet2DModel(
        in_channels=in_channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        num_class_embeds=classes,
        **UNET,
    )


def tiny_condition_unet(in_channels):
    torch.manual_seed(32)
    return UNet2DConditionModel(
        in_channels=in_channels,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=6,
        attention_head_dim=2,
        **UNET,
    )


CASES = [
    {"name": "none"},
    {"name": "none_v_offset", "prediction_type": "v_prediction", "noise_offset": 0.1},
    {"name": "vq", "vae": "vq"},
    {"name": "vq_by_std", "vae": "vq", "scale_by_std": True},
    {"name": "kl_by_std", "scale_by_std": True},
    {"name": "adm", "key": "adm", "dropout": True},
    {"name": "crossattn", "key": "crossattn", "dropout": True},
    {"name": "concat", "key": "concat", "concat": "conditioning_images"},
    {"name": "encoded", "key": "concat", "concat": "encoded_images", "dropout": True},
    {"name": "inpainting", "key": "concat", "concat": "inpainting"},
    {"name": "hybrid", "key": "hybrid", "concat": "conditioning_images", "dropout": True},
]


def make_data():
    generator = torch.Generator().manual_seed(41)
    count = STEPS * BATCH
    return {
        "images": torch.rand(count, 3, SIDE, SIDE, generator=generator) * 2 - 1,
        "conditioning_images": torch.rand(count, 3, SIDE, SIDE, generator=generator),
        "masks": (torch.rand(count, 1, SIDE, SIDE, generator=generator) < 0.5).float(),
        "labels": torch.randint(0, 4, (count,), generator=generator),
        "embeddings": torch.randn(4, 3, 6, generator=generator),
        "unconditional": torch.randn(1, 3, 6, generator=generator),
    }


def train(case, data, dtype):
    key, concat, drops = case.get("key", "none"), case.get("concat"), case.get("dropout", False)
    extra = {None: 0, "conditioning_images": 3, "encoded_images": 2, "inpainting": 3}[concat]
    attends = key in ("crossattn", "hybrid")
    unet = tiny_condition_unet(2 + extra) if attends else tiny_unet(2 + extra, 5 if key == "adm" else None)
    unet.to(dtype).train()
    vae = tiny_vae(case.get("vae", "kl")).to(dtype).eval().requires_grad_(False)
    scheduler = DDPMScheduler(prediction_type=case.get("prediction_type", "epsilon"))
    optimizer = torch.optim.AdamW(unet.parameters(), lr=LEARNING_RATE, betas=(0.95, 0.999), weight_decay=1e-6, eps=EPSILON)
    generator = torch.Generator().manual_seed(5)
    scale = None if case.get("scale_by_std") else vae.config.scaling_factor

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    def moments(images):
        if isinstance(vae, VQModel):
            return vae.encode(images).latents, None
        posterior = vae.encode(images).latent_dist
        return posterior.mean, posterior.std

    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        images = data["images"][rows].to(dtype)
        mask = data["masks"][rows].to(dtype)
        mean, std = moments(images)
        z = mean if std is None else mean + std * draw(*mean.shape)
        masked = None
        if concat == "inpainting":
            masked_mean, masked_std = moments(images * (mask < 0.5))
            masked = masked_mean + masked_std * draw(*masked_mean.shape)
        if scale is None:
            scale = 1.0 / z.flatten().std()
        z = z * scale
        noise = draw(*z.shape)
        if "noise_offset" in case:
            noise = noise + case["noise_offset"] * draw(BATCH, z.shape[1], 1, 1)
        timesteps = torch.randint(0, 1000, (BATCH,), generator=generator)
        dropped = torch.rand(BATCH, generator=generator) < DROPOUT if drops else torch.zeros(BATCH, dtype=torch.bool)

        channels = [scheduler.add_noise(z, noise, timesteps)]
        if concat == "conditioning_images":
            # SpatialRescaler of latent-diffusion: halves with bilinear interpolation.
            pictures = F.interpolate(data["conditioning_images"][rows].to(dtype), scale_factor=0.5, mode="bilinear")
            channels.append((pictures * 2 - 1).masked_fill(dropped.view(-1, 1, 1, 1), 0))
        elif concat == "encoded_images":
            pictures = vae.encode(data["conditioning_images"][rows].to(dtype) * 2 - 1).latent_dist.mode() * scale
            channels.append(pictures.masked_fill(dropped.view(-1, 1, 1, 1), 0))
        elif concat == "inpainting":
            channels += [F.interpolate(mask, size=z.shape[-2:]), masked * scale]
        model_input = torch.cat(channels, dim=1)
        if attends:
            states = data["embeddings"][data["labels"][rows]].to(dtype)
            states = torch.where(dropped.view(-1, 1, 1), data["unconditional"].to(dtype), states)
            output = unet(model_input, timesteps, states).sample
        elif key == "adm":
            output = unet(model_input, timesteps, data["labels"][rows].masked_fill(dropped, 4)).sample
        else:
            output = unet(model_input, timesteps).sample
        target = noise if scheduler.config.prediction_type == "epsilon" else scheduler.get_velocity(z, noise, timesteps)
        loss = F.mse_loss(output, target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, unet, scale


def trajectories(out):
    data = make_data()
    tensors = {f"data.{name}": value for name, value in data.items()}
    for case in CASES:
        for dtype in (torch.float32, torch.float64):
            name = f"{case['name']}.{str(dtype).removeprefix('torch.')}"
            losses, unet, scale = train(case, data, dtype)
            tensors[f"{name}.losses"] = torch.tensor(losses, dtype=torch.float64)
            tensors[f"{name}.model"] = torch.cat([p.detach().flatten() for p in unet.parameters()])
            tensors[f"{name}.scale"] = torch.as_tensor(scale, dtype=torch.float64)
    save_file(tensors, out / "latent_diffusion.safetensors", {"cases": json.dumps(CASES)})


def pipelines(out):
    """A folder of LDMPipeline, and its images."""
    vqvae, unet = tiny_vae("vq"), tiny_unet(2)
    scheduler = DDIMScheduler(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False)
    LDMPipeline(vqvae, unet, scheduler).save_pretrained(out / "tiny_ldm_pipeline")
    pipeline = LDMPipeline.from_pretrained(out / "tiny_ldm_pipeline")
    pipeline.set_progress_bar_config(disable=True)

    def draw(**options):
        generator = torch.Generator().manual_seed(7)
        images = pipeline(batch_size=3, generator=generator, num_inference_steps=6, output_type="np", **options).images
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    images = {"ddim": draw()}
    # The steps of Python's pipeline draw from the global generator.
    torch.manual_seed(9)
    np_images = pipeline(batch_size=3, num_inference_steps=6, output_type="np", eta=0.5).images
    images["ddim_eta"] = torch.from_numpy(np_images).permute(0, 3, 1, 2).contiguous()
    # An AutoencoderKL stands for a VQModel.
    pipeline = LDMPipeline(tiny_vae("kl").eval(), pipeline.unet, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images["kl"] = draw()
    for name, image in images.items():
        inside = ((image > 0) & (image < 1)).float().mean().item()
        assert inside > 0.3, f"{name}: only {inside:.0%} of the pixels are not clamped"
    save_file(images, out / "ldm_pipeline.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    trajectories(out)
    pipelines(out)


if __name__ == "__main__":
    main()
