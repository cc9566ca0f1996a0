"""Golden trajectories of diffusers' script train_t2i_adapter_sdxl.py, also with UNets of Stable Diffusion 1.x: ten
optimizer steps of tiny models.

    python tests/reference/t2i_adapter_training.py --out tests/golden

reads tests/golden/tiny_stable_diffusion/ and the data of tests/golden/text_to_image.safetensors, and makes
t2i_adapter_training.safetensors. Each step draws its random numbers from one generator, in this order: posterior noise,
noise, timesteps, empty captions. The script takes a v-prediction for one of the noise. The case "v" compares it with
DDPMScheduler's velocity.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler, T2IAdapter, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from text_to_image import BATCH, FOLDER, STEPS, TEXT_2, UNET, XL, flat
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SD = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
SDXL = XL | dict(
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(4, 8, 8))  # fmt: skip
FULL = dict(channels=(4, 8), downscale_factor=2, adapter_type="full_adapter")
FULL_XL = dict(channels=(4, 8, 8, 8), downscale_factor=4, adapter_type="full_adapter_xl")

CASES = {
    "sd": {"unet": SD, "adapter": FULL, "proportion_empty_prompts": 0.5},
    "v": {"unet": SD, "adapter": FULL, "prediction_type": "v_prediction"},
    "xl": {"unet": SDXL, "adapter": FULL_XL},
}


def train(data, case, dtype):
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(FOLDER, subfolder="text_encoder").to(dtype).eval()
    vae = AutoencoderKL.from_pretrained(FOLDER, subfolder="vae").to(dtype)
    scheduler = EulerDiscreteScheduler.from_pretrained(FOLDER, subfolder="scheduler")
    scheduler.register_to_config(prediction_type=case.get("prediction_type", "epsilon"))
    is_xl = case["unet"] is SDXL
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**(UNET | case["unet"])).to(dtype)
    unet.train()
    frozen = [text_encoder, vae, unet]
    if is_xl:
        torch.manual_seed(2)
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(
            vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            **TEXT_2)).to(dtype).eval()  # fmt: skip
        frozen.append(text_encoder_2)
    for model in frozen:
        model.requires_grad_(False)
    torch.manual_seed(3)
    adapter = T2IAdapter(in_channels=3, num_res_blocks=2, **case["adapter"]).to(dtype)
    adapter.train()
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-6)
    generator = torch.Generator().manual_seed(7)
    count = scheduler.config.num_train_timesteps

    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        latents = vae.encode(data["images"][rows].to(dtype)).latent_dist.sample(generator) * vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=generator, dtype=dtype)
        timesteps = (1 - torch.rand(BATCH, generator=generator) ** 3) * count
        timesteps = timesteps.long().to(scheduler.timesteps.dtype).clamp(0, count - 1)
        captions = data["captions"][rows]
        if case.get("proportion_empty_prompts"):
            dropped = torch.rand(BATCH, generator=generator) < case["proportion_empty_prompts"]
            captions = ["" if drop else caption for drop, caption in zip(dropped, captions)]
        noisy = scheduler.add_noise(latents, noise, timesteps)
        positions = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
        sigmas = scheduler.sigmas.to(dtype)[positions].view(-1, 1, 1, 1)

        ids = tokenizer(captions, max_length=tokenizer.model_max_length, padding="max_length", truncation=True,
                        return_tensors="pt").input_ids  # fmt: skip
        added = None
        if is_xl:
            first = text_encoder(ids, output_hidden_states=True)
            second = text_encoder_2(ids, output_hidden_states=True)
            states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
            # Original size, crop and target size of every sample.
            time_ids = torch.tensor([[16, 16, 3, 5, 16, 16]]).repeat(BATCH, 1).to(dtype)
            added = {"text_embeds": second[0], "time_ids": time_ids}
        else:
            states = text_encoder(ids, return_dict=False)[0]
        features = adapter(data["conditioning_images"][rows].to(dtype))
        prediction = unet(noisy / ((sigmas**2 + 1) ** 0.5), timesteps, states, added_cond_kwargs=added,
                          down_intrablock_additional_residuals=features).sample  # fmt: skip
        if scheduler.config.prediction_type == "v_prediction":
            velocity = DDPMScheduler.from_config(scheduler.config).get_velocity(latents, noise, timesteps.long())
            loss = ((prediction - velocity) ** 2).mean()
        else:
            denoised = prediction * (-sigmas) + noisy
            loss = (sigmas**-2.0 * (denoised - latents) ** 2).reshape(BATCH, -1).mean(dim=1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), flat(adapter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    golden = Path(__file__).parent.parent / "golden"
    parser.add_argument("--out", type=Path, default=golden)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with safe_open(golden / "text_to_image.safetensors", "pt") as file:
        data = {name: file.get_tensor(name) for name in ("images", "conditioning_images")}
        data["captions"] = json.loads(file.metadata()["captions"])
    tensors = {}
    for name, case in CASES.items():
        for dtype in (torch.float32, torch.float64):
            key = f"{name}.{str(dtype).removeprefix('torch.')}"
            tensors[f"{key}.losses"], tensors[f"{key}.weights"] = train(data, case, dtype)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "t2i_adapter_training.safetensors")


if __name__ == "__main__":
    main()
