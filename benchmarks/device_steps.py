#!/usr/bin/env python3
"""The training steps of device_benchmark with Python diffusers.

    device_steps.py mnist_step|unet_step [--device cuda|cpu] [--size full|quick] [--mixed_precision no|bf16|fp16]
                    [--steps N] [--variant eager|compile]

It prints one line of JSON with the mean seconds of a step. device_check.sh compares it with this library.
"""
import argparse
import contextlib
import json
import time

WARM_UP = 10
DIGITS = dict(sample_size=28, in_channels=1, out_channels=1,
              down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
              up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), block_out_channels=(16, 32, 64), layers_per_block=1,
              norm_num_groups=8)  # fmt: skip
TINY = dict(sample_size=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(32, 64), layers_per_block=1,
            cross_attention_dim=768)  # fmt: skip


def make_row(arguments):
    """The model, a function that gives a batch on the host, and the further arguments of the model."""
    import torch
    from diffusers import UNet2DConditionModel, UNet2DModel
    quick = arguments.size == "quick"
    if arguments.row == "mnist_step":
        size = 2 if quick else 64
        images = torch.rand(16 * size, 1, 28, 28) * 2 - 1
        with torch.device(arguments.device):
            return UNet2DModel(**DIGITS), images, size, ()
    config = TINY if quick else dict(sample_size=64, cross_attention_dim=768)
    side = 8 if quick else 64
    text = torch.randn(1, 77, 768, device=arguments.device).expand(2, -1, -1)
    images = torch.randn(16, 4, side, side).clamp(-1, 1)
    with torch.device(arguments.device):  # the device draws the weights
        return UNet2DConditionModel(**config), images, 2, (text,)


def measure(arguments):
    import torch
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel
    torch.manual_seed(0)
    unet, images, batch_size, given = make_row(arguments)
    device = torch.device(arguments.device)
    unet.train()
    parameters = list(unet.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(parameters, decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    scheduler = DDPMScheduler()
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.mixed_precision)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    model = torch.compile(unet) if arguments.variant == "compile" else unet
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), shuffle=True, batch_size=batch_size,
                                         drop_last=True, pin_memory=device.type == "cuda")  # fmt: skip

    def batches():
        while True:
            for (clean,) in loader:
                yield clean.to(device, non_blocking=True)

    def step(clean):
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (clean.shape[0],), device=device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        with torch.autocast(device.type, dtype) if dtype else contextlib.nullcontext():
            output = model(noisy, timesteps, *given, return_dict=False)[0]
        loss = torch.nn.functional.mse_loss(output.float(), noise)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        ema.step(parameters)
        return loss

    def synchronize():
        if device.type == "cuda":
            torch.cuda.synchronize()

    inputs = batches()
    for _ in range(WARM_UP):
        step(next(inputs))
    synchronize()
    start = time.monotonic()
    for _ in range(arguments.steps):
        loss = step(next(inputs))
    synchronize()
    seconds = (time.monotonic() - start) / arguments.steps
    return {"row": arguments.row, "variant": arguments.variant, "seconds": seconds, "loss": loss.item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=("mnist_step", "unet_step"))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "quick"), default="full")
    parser.add_argument("--mixed_precision", choices=("no", "bf16", "fp16"), default="no")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--variant", choices=("eager", "compile"), default="eager")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
