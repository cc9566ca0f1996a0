#!/usr/bin/env python3
"""Measures one row of compare.py in Python: compare_peer.py WORK SIZE VARIANT FOLDER BATCH. It speaks as compare.cpp does.

On the line "flops" it counts floating point operations instead of measuring.
"""
import gzip
import json
import pathlib
import sys
import time

from compare import MNIST, TOKENIZER

DIGITS = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 8,
          "block_out_channels": [16, 32, 64], "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
          "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}  # fmt: skip


# The same numbers as in compare.cpp.
def pick(size, reduced, full, quick):
    return {"reduced": reduced, "full": full, "quick": quick}[size]


def text_config(size):
    return {"hidden_size": pick(size, 256, 768, 32), "intermediate_size": pick(size, 1024, 3072, 64),
            "projection_dim": pick(size, 256, 768, 32), "num_hidden_layers": pick(size, 12, 12, 2),
            "num_attention_heads": pick(size, 4, 12, 2)}  # fmt: skip


def unet_config(size):
    if size == "quick":
        return {"sample_size": 8, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
                "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "block_out_channels": [32, 64], "layers_per_block": 1,
                "cross_attention_dim": 32}  # fmt: skip
    return {"sample_size": 64, "block_out_channels": pick(size, [64, 128, 256, 256], [320, 640, 1280, 1280], []),
            "cross_attention_dim": text_config(size)["hidden_size"]}  # fmt: skip


def vae_config(size):
    return {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
            "block_out_channels": pick(size, [32, 64, 128, 128], [128, 256, 512, 512], [32] * 4),
            "layers_per_block": pick(size, 2, 2, 1), "sample_size": 512}  # fmt: skip


class Peer:
    """The rows in Python. Each method prepares a row and returns the models and the function that does its work."""

    def __init__(self, size, variant, folder, batch=2):
        import torch
        self.torch, self.size, self.variant, self.folder, self.batch = torch, size, variant, folder, batch
        self.is_quick = size == "quick"

    def prepared(self, model):
        if self.variant == "channels_last":
            model = model.to(memory_format=self.torch.channels_last)
        return self.torch.compile(model) if self.variant == "compile" else model

    def image(self, tensor):
        if self.variant == "channels_last":
            return tensor.contiguous(memory_format=self.torch.channels_last)
        return tensor

    def training(self, unet, next_inputs, uses_ema=False):
        """The steps of train_unconditional.py and train_text_to_image.py."""
        torch = self.torch
        from diffusers import DDPMScheduler
        from diffusers.training_utils import EMAModel
        scheduler, parameters = DDPMScheduler(), [one for one in unet.parameters() if one.requires_grad]
        unet.train()
        optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        ema = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75) if uses_ema else None
        model = self.prepared(unet)

        def step():
            clean, given = next_inputs()
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, 1000, (clean.shape[0],))
            output = model(self.image(scheduler.add_noise(clean, noise, timesteps)), timesteps, *given, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(output, noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if ema:
                ema.step(parameters)
            loss.detach().item()

        return unet, step

    def digit_step(self, batch_size):
        torch = self.torch
        from diffusers import UNet2DModel
        raw = gzip.decompress((MNIST / "train-images-idx3-ubyte.gz").read_bytes())
        images = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28)
        data = torch.utils.data.TensorDataset(images)
        loader = torch.utils.data.DataLoader(data, batch_size=4 if self.is_quick else batch_size, shuffle=True, drop_last=True)

        def batches():
            while True:
                for (clean,) in loader:
                    yield clean.float() / 127.5 - 1, ()

        inputs = batches()
        return self.training(UNet2DModel(**DIGITS), lambda: next(inputs), uses_ema=True)

    def mnist_step_64(self):
        return self.digit_step(64)

    def mnist_step_128(self):
        return self.digit_step(128)

    def start(self):
        return self.digit_step(4)

    def ddim_50(self):
        torch = self.torch
        from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        unet = UNet2DModel(**DIGITS).eval()
        pipeline = DDIMPipeline(self.prepared(unet), DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        options = {"batch_size": 4 if self.is_quick else 64, "num_inference_steps": 2 if self.is_quick else 50}
        return unet, lambda: pipeline(generator=torch.Generator().manual_seed(0), output_type="np", **options)

    def unet_step(self, adapter=None):
        torch = self.torch
        from diffusers import UNet2DConditionModel
        side = pick(self.size, 32, 64, 8)
        latents = torch.randn(self.batch, 4, side, side).clamp(-1, 1)
        text = torch.randn(1, 77, text_config(self.size)["hidden_size"]).expand(self.batch, -1, -1)
        unet = UNet2DConditionModel(**unet_config(self.size))
        if adapter:
            unet.requires_grad_(False)
            unet.add_adapter(adapter)
        return self.training(unet, lambda: (latents, (text,)))

    def lora_step(self):
        from peft import LoraConfig
        return self.unet_step(LoraConfig(r=4, lora_alpha=4, init_lora_weights="gaussian",
                                         target_modules=["to_k", "to_q", "to_v", "to_out.0"]))  # fmt: skip

    def text_to_image_step(self):
        torch = self.torch
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
        tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_config(self.size))).eval().requires_grad_(False)
        vae = AutoencoderKL(**vae_config(self.size)).eval().requires_grad_(False)
        encoder, vae_encode = self.prepared(text_encoder), vae.encode
        if self.variant == "channels_last":
            vae.to(memory_format=torch.channels_last)
        if self.variant == "compile":
            vae_encode = torch.compile(vae.encode)
        side = pick(self.size, 256, 512, 64)
        images = torch.rand(2, 3, side, side) * 2 - 1

        def inputs():
            ids = tokenizer(["a photo of a cat"] * 2, max_length=77, padding="max_length", truncation=True,
                            return_tensors="pt").input_ids  # fmt: skip
            with torch.no_grad():
                latents = vae_encode(self.image(images)).latent_dist.sample() * vae.config.scaling_factor
                return latents, (encoder(ids, return_dict=False)[0],)

        return self.training(UNet2DConditionModel(**unet_config(self.size)), inputs)

    def vae(self, is_decoding):
        torch = self.torch
        from diffusers import AutoencoderKL
        vae = AutoencoderKL(**vae_config(self.size)).eval()
        if self.variant == "channels_last":
            vae.to(memory_format=torch.channels_last)
        call = vae.decode if is_decoding else vae.encode
        if self.variant == "compile":
            call = torch.compile(call)
        side = pick(self.size, 512, 512, 64)
        given = self.image(torch.randn(1, 4, side // 8, side // 8) if is_decoding else torch.rand(1, 3, side, side) * 2 - 1)
        return vae, torch.no_grad()(lambda: call(given))

    def vae_encode(self):
        return self.vae(False)

    def vae_decode(self):
        return self.vae(True)

    def clip_encode(self):
        torch = self.torch
        from transformers import CLIPTextConfig, CLIPTextModel
        model = CLIPTextModel(CLIPTextConfig(**text_config(self.size))).eval()
        call, ids = self.prepared(model), torch.randint(0, 49000, (8, 77))
        return model, torch.no_grad()(lambda: call(ids))

    def load(self):
        from diffusers import UNet2DConditionModel
        folder = pathlib.Path(self.folder) / "unet"
        if not folder.exists():
            UNet2DConditionModel(**unet_config(self.size)).save_pretrained(folder)
        return UNet2DConditionModel.from_pretrained(folder), lambda: UNet2DConditionModel.from_pretrained(folder)


def run_peer(row, size, variant, folder, batch):
    """Prepares a row and measures it once for each line of the input."""
    model, work = getattr(Peer(size, variant, folder, int(batch)), row)()
    if row == "start":
        work()
    print(json.dumps({"parameters": sum(parameter.numel() for parameter in model.parameters())}), flush=True)
    for line in sys.stdin:
        if line.strip() == "flops":
            from torch.utils.flop_counter import FlopCounterMode
            with FlopCounterMode(display=False) as counter:
                work()
            print(json.dumps({"flops": counter.get_total_flops()}), flush=True)
            continue
        begin = time.perf_counter()
        work()
        print(json.dumps({"seconds": time.perf_counter() - begin}), flush=True)
    peak = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"peak": 1024 * int(peak.split()[1])}), flush=True)


if __name__ == "__main__":
    run_peer(*sys.argv[1:])
