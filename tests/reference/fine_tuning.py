"""Golden trajectories of diffusers' scripts textual_inversion.py, textual_inversion_sdxl.py and train_instruct_pix2pix.py:
ten optimizer steps of tiny models. Files of textual inversions and what pipelines draw with them, and images of
StableDiffusionInstructPix2PixPipeline.

    python tests/reference/fine_tuning.py --out tests/golden

reads tests/golden/tiny_stable_diffusion/, tiny_stable_diffusion_xl/ and the images of text_to_image.safetensors, and makes
fine_tuning.safetensors and the folder textual_inversion_files. Each step draws its random numbers from one generator, in this
order: posterior noise, noise, timesteps, and the dropped conditioning of instruct-pix2pix. Its UNet keeps the bias of conv_in,
for which the script draws new values.
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_to_image import BATCH, FOLDER, STEPS, TEXT_2, UNET, XL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

INVERSIONS = {
    "one": {"num_vectors": 1},
    "three": {"num_vectors": 3, "prediction_type": "v_prediction"},
    "xl": {"num_vectors": 2, "unet": XL},
}
EDITS = {
    "all_kept": {},
    "dropped": {"conditioning_dropout_prob": 0.2, "prediction_type": "v_prediction"},
}
TOKEN, WORD = "<toy>", "cat"
CAPTIONS = ["a red {}", "a {}", "{} and a blue dog"]
INSTRUCTIONS = ["a red cat", "a blue dog", "cat"]


def models_of(case, dtype):
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    text_encoder = CLIPTextModel.from_pretrained(FOLDER, subfolder="text_encoder").to(dtype)
    vae = AutoencoderKL.from_pretrained(FOLDER, subfolder="vae").to(dtype)
    scheduler = DDPMScheduler.from_pretrained(FOLDER, subfolder="scheduler")
    scheduler.register_to_config(prediction_type=case.get("prediction_type", "epsilon"))
    torch.manual_seed(1)
    unet = UNet2DConditionModel(**(UNET | case.get("unet", {}))).to(dtype)
    for model in (text_encoder, vae, unet):
        model.requires_grad_(False)
    return tokenizer, text_encoder, vae, scheduler, unet


def optimizer_of(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-6)


def ids_of(tokenizer, texts):
    return tokenizer(texts, max_length=tokenizer.model_max_length, padding="max_length", truncation=True,
                     return_tensors="pt").input_ids  # fmt: skip


def loss_of(scheduler, latents, noise, timesteps, prediction):
    target = noise
    if scheduler.config.prediction_type == "v_prediction":
        target = scheduler.get_velocity(latents, noise, timesteps)
    return F.mse_loss(prediction, target)


def noised(vae, scheduler, images, generator, dtype):
    latents = vae.encode(images.to(dtype)).latent_dist.sample(generator) * vae.config.scaling_factor
    noise = torch.randn(latents.shape, generator=generator, dtype=dtype)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (BATCH,), generator=generator)
    return latents, noise, timesteps, scheduler.add_noise(latents, noise, timesteps)


def invert(data, case, dtype):
    """textual_inversion.py"""
    tokenizer, text_encoder, vae, scheduler, unet = models_of(case, dtype)
    is_xl = case.get("unet") is XL
    tokenizer_2 = CLIPTokenizer.from_pretrained(FOLDER, subfolder="tokenizer")
    if is_xl:
        torch.manual_seed(2)
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(
            vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            **TEXT_2)).to(dtype).eval().requires_grad_(False)  # fmt: skip
    tokens = [TOKEN] + [f"{TOKEN}_{i}" for i in range(1, case["num_vectors"])]
    assert tokenizer.add_tokens(tokens) == len(tokens)
    (initializer,) = tokenizer.encode(WORD, add_special_tokens=False)
    places = tokenizer.convert_tokens_to_ids(tokens)
    text_encoder.resize_token_embeddings(len(tokenizer))
    table = text_encoder.get_input_embeddings().weight
    for place in places:
        table.data[place] = table.data[initializer].clone()
    table.requires_grad_(True)
    original = table.data.clone()
    others = torch.ones(len(tokenizer), dtype=torch.bool)
    others[min(places) : max(places) + 1] = False
    optimizer = optimizer_of([table])
    generator = torch.Generator().manual_seed(7)
    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        latents, noise, timesteps, noisy = noised(vae, scheduler, data["images"][rows], generator, dtype)
        captions = [CAPTIONS[i % len(CAPTIONS)].format(" ".join(tokens)) for i in range(rows.start, rows.stop)]
        ids = ids_of(tokenizer, captions)
        added = None
        if is_xl:
            first = text_encoder(ids, output_hidden_states=True)
            second = text_encoder_2(ids_of(tokenizer_2, captions), output_hidden_states=True)
            states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
            target = torch.tensor([[16, 16]]).expand(BATCH, 2)
            time_ids = torch.cat([data["original_sizes"][rows], data["crop_top_lefts"][rows], target], dim=1).to(dtype)
            added = {"text_embeds": second[0], "time_ids": time_ids}
        else:
            states = text_encoder(ids)[0]
        loss = loss_of(scheduler, latents, noise, timesteps,
                       unet(noisy, timesteps, states, added_cond_kwargs=added).sample)  # fmt: skip
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        table.data[others] = original[others]
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), table.data[places].flatten()


def edit(data, case, dtype):
    """train_instruct_pix2pix.py"""
    tokenizer, text_encoder, vae, scheduler, unet = models_of(case, dtype)
    layer = torch.nn.Conv2d(8, unet.conv_in.out_channels, 3, padding=1).to(dtype)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :4].copy_(unet.conv_in.weight)
        layer.bias.copy_(unet.conv_in.bias)
    unet.conv_in = layer
    unet.requires_grad_(True).train()
    optimizer = optimizer_of(unet.parameters())
    generator = torch.Generator().manual_seed(7)
    probability = case.get("conditioning_dropout_prob")
    losses = []
    for step in range(STEPS):
        rows = slice(step * BATCH, (step + 1) * BATCH)
        latents, noise, timesteps, noisy = noised(vae, scheduler, data["images"][rows], generator, dtype)
        states = text_encoder(ids_of(tokenizer, [INSTRUCTIONS[i % 3] for i in range(rows.start, rows.stop)]))[0]
        originals = vae.encode(data["conditioning_images"][rows].to(dtype) * 2 - 1).latent_dist.mode()
        if probability:
            random_p = torch.rand(BATCH, generator=generator)
            states = torch.where((random_p < 2 * probability).reshape(BATCH, 1, 1),
                                 text_encoder(ids_of(tokenizer, [""]))[0], states)  # fmt: skip
            image_mask = 1 - (random_p >= probability).to(dtype) * (random_p < 3 * probability).to(dtype)
            originals = image_mask.reshape(BATCH, 1, 1, 1) * originals
        loss = loss_of(scheduler, latents, noise, timesteps,
                       unet(torch.cat([noisy, originals], dim=1), timesteps, states).sample)  # fmt: skip
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    weights = torch.cat([p.detach().flatten() for _, p in sorted(unet.named_parameters())])
    return torch.tensor(losses, dtype=torch.float64), weights


def drawn(pipeline, prompt, **options):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompt, num_inference_steps=3, output_type="pt", generator=torch.Generator().manual_seed(3),
                    **options).images.contiguous()  # fmt: skip


def inverted_images(folder):
    """Files of textual inversions, and what the pipelines draw with them."""
    folder.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(5)

    def embeds(*shape):
        return torch.randn(shape, generator=random) * 0.1

    def save(name, tensors):
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
        return folder / f"{name}.safetensors"

    tensors = {}
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER)
    width = pipeline.text_encoder.config.hidden_size
    pipeline.load_textual_inversion(save("one", {"<one>": embeds(1, width)}))
    pipeline.load_textual_inversion(save("three", {"<three>": embeds(3, width)}))
    pipeline.load_textual_inversion(save("webui", {"emb_params": embeds(2, width)}), token="webui")
    for token in ("<one>", "<three>", "webui"):
        tensors[f"image.{token}"] = drawn(pipeline, f"a red {token} and a dog", negative_prompt="<three>")
    pipeline = StableDiffusionXLPipeline.from_pretrained(FOLDER.with_name("tiny_stable_diffusion_xl"))
    parts = {"clip_l": (pipeline.text_encoder, pipeline.tokenizer), "clip_g": (pipeline.text_encoder_2, pipeline.tokenizer_2)}
    both = load_file(save("xl", {name: embeds(2, part[0].config.hidden_size) for name, part in parts.items()}))
    for name, (text_encoder, tokenizer) in parts.items():
        pipeline.load_textual_inversion({"xl": both[name]}, text_encoder=text_encoder, tokenizer=tokenizer)
    tensors["image.xl"] = drawn(pipeline, "a red xl and a dog")
    return tensors


def edited_images(data):
    plain = StableDiffusionPipeline.from_pretrained(FOLDER)
    torch.manual_seed(4)
    unet = UNet2DConditionModel.from_config({**plain.unet.config, "in_channels": 8}).eval()
    pipeline = StableDiffusionInstructPix2PixPipeline(plain.vae, plain.text_encoder, plain.tokenizer, unet, plain.scheduler,
                                                      None, None, requires_safety_checker=False)  # fmt: skip
    images = data["conditioning_images"][:2]
    return {
        "edit.default": drawn(pipeline, "a red cat", image=images[:1]),
        "edit.scales": drawn(pipeline, ["a red cat", "a blue dog"], image=images, guidance_scale=3.0, image_guidance_scale=2.0,
                             negative_prompt=["dog", ""]),
        "edit.repeated": drawn(pipeline, ["a red cat", "a blue dog"], image=images, num_images_per_prompt=2),
        "edit.unguided": drawn(pipeline, "a red cat", image=images[:1], image_guidance_scale=0.5),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    golden = Path(__file__).parent.parent / "golden"
    parser.add_argument("--out", type=Path, default=golden)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with safe_open(golden / "text_to_image.safetensors", "pt") as file:
        data = {name: file.get_tensor(name)
                for name in ("images", "conditioning_images", "original_sizes", "crop_top_lefts")}  # fmt: skip
    tensors = {}
    for train, cases in ((invert, INVERSIONS), (edit, EDITS)):
        for name, case in cases.items():
            for dtype in (torch.float32, torch.float64):
                key = f"{name}.{str(dtype).removeprefix('torch.')}"
                tensors[f"{key}.losses"], tensors[f"{key}.weights"] = train(data, case, dtype)
    tensors |= inverted_images(out / "textual_inversion_files") | edited_images(data)
    texts = {"captions": CAPTIONS, "instructions": INSTRUCTIONS}
    save_file({k: v.contiguous() for k, v in tensors.items()}, out / "fine_tuning.safetensors",
              {name: json.dumps(value) for name, value in texts.items()})  # fmt: skip


if __name__ == "__main__":
    main()
