"""Golden trajectories of diffusers' scripts train_text_to_image.py, train_text_to_image_sdxl.py, train_dreambooth.py
(text encoder), train_dreambooth_inpaint.py, train_controlnet.py and train_controlnet_sdxl.py: ten optimizer steps of tiny
models.

    python tests/reference/text_to_image.py --out tests/golden

reads the folder tests/golden/tiny_stable_diffusion/ and makes text_to_image.safetensors. Each step draws its random
numbers from one generator, in the order that the scripts draw them in: posterior noise, noise, noise offset, input
perturbation, timesteps, then the empty captions.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

FOLDER = Path(__file__).parent.parent / "golden" / "tiny_stable_diffusion"
STEPS, BATCH = 10, 4
WORDS = ["a red cat", "a blue dog", "cat", "", "a blue cat and a red dog", "dog " * 90]
UNET = dict(
    sample_size=8, in_channels=4, out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(4, 8), layers_per_block=1,
    norm_num_groups=2, cross_attention_dim=16, attention_head_dim=2)  # fmt: skip
XL = dict(cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=4,
          projection_class_embeddings_input_dim=32)  # fmt: skip
TEXT_2 = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=8)

# What differs from epsilon prediction with the text encoder frozen.
CASES = {
    "epsilon": {},
    "v": {"prediction_type": "v_prediction", "snr_gamma": 5.0, "noise_offset": 0.1, "use_ema": True},
    "perturbed": {"input_perturbation": 0.1, "proportion_empty_prompts": 0.3},
    "text": {"train_text_encoder": True},
    "inpainting": {"unet": {"in_channels": 9}},
    "xl": {"unet": XL, "proportion_empty_prompts": 0.3},
    "controlnet": {"controlnet": True, "proportion_empty_prompts": 0.5},
    "controlnet_xl": {"controlnet": True, "unet": XL, "crops_coords_top_left": (3, 5)},
}


def flat(*modules):
    """All parameters that are trained, sorted by name."""
    return torch.cat([p.detach().flatten() for m in modules for _, p in sorted(m.named_parameters()) if p.requires_grad])


def train(folder, data, case, dtype):
    tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").to(dtype)
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").to(dtype)
    vae.requires_grad_(False)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.register_to_config(prediction_type=case.get("prediction_type", "epsilon"))
    is_xl = case.get("unet") is XL
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**(UNET | case.get("unet", {}))).to(dtype)
    if is_xl:
        torch.manual_seed(2)
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(
            vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            **TEXT_2)).to(dtype)  # fmt: skip
        text_encoder_2.requires_grad_(False)
        text_encoder_2.eval()
    text_encoder.requires_grad_(case.get("train_text_encoder", False))
    unet.train()
    trained = [unet]
    if case.get("train_text_encoder"):
        text_encoder.train()
        trained.append(text_encoder)
    if case.get("controlnet"):
        unet.requires_grad_(False)
        unet.eval()
        torch.manual_seed(3)
        controlnet = ControlNetModel.from_unet(unet.to(torch.float32), conditioning_embedding_out_channels=(4, 8))
        unet.to(dtype)
        controlnet.to(dtype).train()
        trained = [controlnet]
    if case.get("add_adapters"):
        torch.manual_seed(3)
        for module in trained:
            case["add_adapters"](module)
    parameters = [p for m in trained for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-6)
    average = EMAModel(unet.parameters()) if case.get("use_ema") else None
    generator = torch.Generator().manual_seed(7)

    def encode(images):
        return vae.encode(images).latent_dist.sample(generator) * vae.config.scaling_factor

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        images = data["images"][rows].to(dtype)
        latents = encode(images)
        if unet.config.in_channels == 9:
            masks = data["masks"][rows].to(dtype)
            masked_latents = encode(images * (masks < 0.5))
            masks = F.interpolate(masks, size=latents.shape[-2:])
        noise = randn(*latents.shape)
        if case.get("noise_offset"):
            noise += case["noise_offset"] * randn(*latents.shape[:2], 1, 1)
        input_noise = noise
        if case.get("input_perturbation"):
            input_noise = noise + case["input_perturbation"] * randn(*latents.shape)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (BATCH,), generator=generator)
        captions = data["captions"][rows]
        if case.get("proportion_empty_prompts"):
            dropped = torch.rand(BATCH, generator=generator) < case["proportion_empty_prompts"]
            captions = ["" if drop else caption for drop, caption in zip(dropped, captions)]
        noisy = scheduler.add_noise(latents, input_noise, timesteps)

        ids = tokenizer(captions, max_length=tokenizer.model_max_length, padding="max_length", truncation=True,
                        return_tensors="pt").input_ids  # fmt: skip
        added = None
        if is_xl:
            first = text_encoder(ids, output_hidden_states=True)
            second = text_encoder_2(ids, output_hidden_states=True)
            states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
            target = torch.tensor([[16, 16]]).expand(BATCH, 2)
            sizes, crops = data["original_sizes"][rows], data["crop_top_lefts"][rows]
            if case.get("controlnet"):
                # train_controlnet_sdxl.py does not tell the UNet the size and crop of each image.
                sizes, crops = target, torch.tensor([case["crops_coords_top_left"]]).expand(BATCH, 2)
            time_ids = torch.cat([sizes, crops, target], dim=1).to(dtype)
            added = {"text_embeds": second[0], "time_ids": time_ids}
        else:
            states = text_encoder(ids, return_dict=False)[0]
        if unet.config.in_channels == 9:
            noisy = torch.cat([noisy, masks, masked_latents], dim=1)
        residuals = {}
        if case.get("controlnet"):
            down, middle = controlnet(
                noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added,
                controlnet_cond=data["conditioning_images"][rows].to(dtype), return_dict=False)  # fmt: skip
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        prediction = unet(noisy, timesteps, states, added_cond_kwargs=added, **residuals).sample
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(latents, noise, timesteps)
        loss = F.mse_loss(prediction, target, reduction="none").mean(dim=[1, 2, 3])
        if case.get("snr_gamma"):
            # compute_snr rounds to float32.
            abar = scheduler.alphas_cumprod[timesteps].to(dtype)
            snr = compute_snr(scheduler, timesteps) if dtype == torch.float32 else abar / (1 - abar)
            weights = torch.stack([snr, case["snr_gamma"] * torch.ones_like(timesteps)], dim=1).min(dim=1)[0]
            loss = loss * (weights / (snr + 1 if scheduler.config.prediction_type == "v_prediction" else snr))
        if "prior_loss_weight" in case:
            # DreamBooth: the class images are the second half of the batch.
            instance, prior = loss.chunk(2)
            loss = instance.mean() + case["prior_loss_weight"] * prior.mean()
        else:
            loss = loss.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if average:
            average.step(unet.parameters())
        losses.append(loss.item())
    if average:
        average.copy_to(unet.parameters())
    return torch.tensor(losses, dtype=torch.float64), flat(*trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "golden")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    count = STEPS * BATCH
    generator = torch.Generator().manual_seed(11)
    data = {
        "images": torch.rand(count, 3, 16, 16, generator=generator) * 2 - 1,
        "masks": F.interpolate((torch.rand(count, 1, 4, 4, generator=generator) < 0.5).float(), scale_factor=4),
        "conditioning_images": torch.rand(count, 3, 16, 16, generator=generator),
        "original_sizes": torch.randint(16, 40, (count, 2), generator=generator),
        "crop_top_lefts": torch.randint(0, 9, (count, 2), generator=generator),
    }
    tensors = dict(data)
    data["captions"] = [WORDS[i % len(WORDS)] for i in range(count)]
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.float64):
            key = f"{name}.{str(dtype).removeprefix('torch.')}"
            tensors[f"{key}.losses"], tensors[f"{key}.weights"] = train(FOLDER, data, case, dtype)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "text_to_image.safetensors",
              {"captions": json.dumps(data["captions"])})  # fmt: skip


if __name__ == "__main__":
    main()
