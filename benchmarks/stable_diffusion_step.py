#!/usr/bin/env python3
"""Fine-tuning steps of Stable Diffusion 1.5 at its full size, with this library and with Python diffusers, in one run.

    cmake --build --preset release --target stable_diffusion_step
    ~/.cache/libdiffusers/reference-0.42.1/bin/python benchmarks/stable_diffusion_step.py
        [--size full|tiny] [--mixed_precision no bf16] [--rounds 3] [--steps 3] [--threads N] [--lora RANK] [--only C++|Python]

A step is that of train_text_to_image.py: VAE encoder and text encoder without gradients, a sample of the posterior, noise,
forward and backward pass of the UNet with gradient checkpointing, clipping, AdamW; batch 1, 512 x 512 pixels. All weights
are random. Both sides take turns, each run is a process of its own, with N threads (default: one for each core).
C++ trains with TextToImageTask and Trainer; Python does what the script does, with accelerate.

--lora trains an adapter of this rank with TextToImageLoraTask, and with PEFT as train_text_to_image_lora.py does. With bf16 all
weights but those of the adapter are bfloat16; the VAE stays float32 in C++, since its config has force_upcast.

The first step, which also allocates the optimizer's state, is reported apart from the following ones. Memory is the largest
resident size of the process. Medians over the rounds; the ratios are Python's divided by ours. The full size needs 17 GB of
free memory, with --lora 10 GB.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/release/benchmarks/stable_diffusion_step"
TOKENIZER = ROOT / "tests/golden/tiny_stable_diffusion/tokenizer"
# Free memory in bytes; a process of the full size must not swap.
NEEDED = 17 * 2**30
NEEDED_FOR_LORA = 10 * 2**30
TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]  # of the script

# The same numbers as in stable_diffusion_step.cpp.
FULL = {
    "unet": dict(sample_size=64, cross_attention_dim=768),
    "vae": dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(128, 256, 512, 512), layers_per_block=2, sample_size=512),
    "text_encoder": dict(hidden_size=768, intermediate_size=3072, projection_dim=768, num_hidden_layers=12,
                         num_attention_heads=12),
    "resolution": 512,
}  # fmt: skip
TINY = {
    "unet": dict(sample_size=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                 up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(32, 64), layers_per_block=1,
                 cross_attention_dim=32),
    "vae": dict(down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(32, 32, 32, 32), sample_size=64),
    "text_encoder": dict(hidden_size=32, intermediate_size=64, projection_dim=32, num_hidden_layers=2,
                         num_attention_heads=2),
    "resolution": 64,
}  # fmt: skip


def memory_of(path, key):
    """A value of /proc/meminfo or /proc/PID/status in bytes."""
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"{path} has no line {key}")


def make_model(make, dtype=None):
    """A model whose weights have the variance of PyTorch's initialisation, which takes much longer."""
    import torch
    with torch.device("meta"):
        model = make()
    model = model.to(dtype=dtype).to_empty(device="cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.normal_(0, (3 * parameter.numel() / parameter.shape[0])**-0.5)
            else:
                parameter.fill_(0 if name.endswith(".bias") else 1)
        for name, buffer in model.named_buffers():
            if not name.endswith("position_ids"):
                raise RuntimeError(f"unknown buffer {name}")
            buffer.copy_(torch.arange(buffer.shape[-1]).expand(buffer.shape))
    return model


def train(sizes, mixed_precision, steps, rank):
    """What train_text_to_image.py does for --gradient_checkpointing --train_batch_size 1, or with a rank
    train_text_to_image_lora.py. Returns the measurements."""
    import torch
    import torch.nn.functional as F
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from diffusers.optimization import get_scheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    set_seed(0)
    weight_dtype = torch.bfloat16 if mixed_precision == "bf16" else torch.float32
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    dtype = weight_dtype if rank else torch.float32
    text_encoder = make_model(lambda: CLIPTextModel(CLIPTextConfig(**sizes["text_encoder"])), dtype)
    vae = make_model(lambda: AutoencoderKL(**sizes["vae"]), dtype)
    unet = make_model(lambda: UNet2DConditionModel(**sizes["unet"]), dtype)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    for frozen in (text_encoder, vae):
        frozen.requires_grad_(False)
        frozen.eval()
        frozen.to(dtype=weight_dtype)
    if rank:
        from diffusers.training_utils import cast_training_params
        from peft import LoraConfig
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
        cast_training_params(unet, dtype=torch.float32)
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    unet.train()
    unet.enable_gradient_checkpointing()
    noise_scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimizer = torch.optim.AdamW(trained, lr=1e-5, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
    lr_scheduler = get_scheduler("constant", optimizer)
    images = torch.rand(steps, 3, sizes["resolution"], sizes["resolution"]) * 2 - 1
    input_ids = tokenizer(["a photo of a cat"] * steps, max_length=tokenizer.model_max_length, padding="max_length",
                          truncation=True, return_tensors="pt").input_ids  # fmt: skip
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, input_ids), shuffle=True, batch_size=1)
    unet, optimizer, loader, lr_scheduler = accelerator.prepare(unet, optimizer, loader, lr_scheduler)

    seconds, losses = [], []
    start = time.monotonic()
    for pixel_values, ids in loader:
        with accelerator.accumulate(unet):
            latents = vae.encode(pixel_values.to(weight_dtype)).latent_dist.sample()
            latents = latents * vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (latents.shape[0],)).long()
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
            encoder_hidden_states = text_encoder(ids, return_dict=False)[0]
            model_pred = unet(noisy_latents, timesteps, encoder_hidden_states, return_dict=False)[0]
            loss = F.mse_loss(model_pred.float(), noise.float(), reduction="mean")
            losses.append(loss.detach().item())
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
        now = time.monotonic()
        seconds.append(now - start)
        start = now
    return {"parameters": parameters, "threads": torch.get_num_threads(), "seconds": seconds, "losses": losses,
            "peak": memory_of("/proc/self/status", "VmHWM")}  # fmt: skip


def measure(side, command, threads):
    """Runs a process and returns the measurements that it prints in its last line."""
    process = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    if process.returncode != 0:
        sys.exit(f"{side}: exit status {process.returncode}")
    result = json.loads(process.stdout.splitlines()[-1])
    steps = ", ".join(f"{seconds:.2f}" for seconds in result["seconds"])
    print(f"  {side:6}  steps {steps} s, losses {', '.join(f'{loss:.4f}' for loss in result['losses'])}, "
          f"peak {result['peak'] / 2**20:.0f} MiB", flush=True)
    return result


def report(name, unit, digits, rounds):
    """Prints the medians of each side and, where both ran, the ratio."""
    line = f"{name:28}"
    for side, values in rounds.items():
        line += f"  {side} {statistics.median(values):10.{digits}f} {unit}"
    if len(rounds) == 2:
        ratios = [python / ours for ours, python in zip(rounds["C++"], rounds["Python"])]
        line += f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), nargs="+", default=["no", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=("C++", "Python"), help="run one side alone")
    parser.add_argument("--lora", type=int, default=0, metavar="RANK", help="train an adapter of this rank")
    parser.add_argument("--python", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.python:
        size, mixed_precision, steps, rank = arguments.python
        print(json.dumps(train(FULL if size == "full" else TINY, mixed_precision, int(steps), int(rank))))
        return
    if arguments.steps < 2 or arguments.rounds < 1:
        sys.exit(f"--steps is {arguments.steps} and --rounds {arguments.rounds}, expected at least 2 and 1")
    free = memory_of("/proc/meminfo", "MemAvailable")
    needed = NEEDED_FOR_LORA if arguments.lora else NEEDED
    if arguments.size == "full" and free < needed:
        sys.exit(f"the full size needs {needed / 2**30:.0f} GiB of free memory, found {free / 2**30:.1f} GiB")

    for mixed_precision in arguments.mixed_precision:
        adapter = f", LoRA of rank {arguments.lora}" if arguments.lora else ""
        print(f"{arguments.size} size{adapter}, mixed_precision {mixed_precision}, {arguments.threads} threads", flush=True)
        results = {side: [] for side in ("C++", "Python") if arguments.only in (None, side)}
        for _ in range(arguments.rounds):
            for side in results:
                with tempfile.TemporaryDirectory() as folder:
                    flags = ["--size", arguments.size, "--mixed_precision", mixed_precision, "--steps", arguments.steps,
                             "--lora", arguments.lora]
                    command = [arguments.program, *flags, folder, TOKENIZER]
                    if side == "Python":
                        command = [sys.executable, __file__, "--python", *flags[1::2]]
                    results[side].append(measure(side, command, arguments.threads))
        counts = {run["parameters"] for runs in results.values() for run in runs}
        if len(counts) != 1:
            sys.exit(f"the UNets have {' and '.join(map(str, sorted(counts)))} parameters, expected equal numbers")
        print(f"UNet2DConditionModel with {counts.pop():,} parameters, medians of {arguments.rounds} rounds")

        def values(of):
            return {side: [of(run) for run in runs] for side, runs in results.items()}

        report("first step", "s", 3, values(lambda run: run["seconds"][0]))
        report("following steps", "s", 3, values(lambda run: statistics.median(run["seconds"][1:])))
        report("peak memory", "MiB", 0, values(lambda run: run["peak"] / 2**20))


if __name__ == "__main__":
    main()
