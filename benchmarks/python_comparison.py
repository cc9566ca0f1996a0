#!/usr/bin/env python3
"""Start-up, memory and training speed of this library beside Python diffusers, in one run.

    cmake --build --preset release
    ~/.cache/libdiffusers/reference-0.42.1/bin/python benchmarks/python_comparison.py [--rounds 5] [--steps 40] [--threads N]

Two measurements, each in turn for C++ and Python, every run a process of its own, with N threads (default: one for each core):

    start      opens a DDPMPipeline folder and draws one 28 x 28 image with one step
    training   trains the model of `train_mnist` on MNIST: batch 32, AdamW, EMA, clipping, as train_unconditional.py does.
               C++ cuts each batch into N parts (--cpu_data_parallel).
               The time of a step is the difference between a run of 3 N and one of N steps, divided by 2 N

Time is that of the clock: run it on a machine that does nothing else. Memory is the largest resident size of the process.
Medians; the ratios are Python's divided by ours, with the smallest and the largest of the rounds.
"""
import argparse
import gzip
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 8,
         "block_out_channels": [16, 32, 64], "down_block_types": ["DownBlock2D", "DownBlock2D", "AttnDownBlock2D"],
         "up_block_types": ["AttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}


def make_pipeline(folder):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
    DDPMPipeline(UNet2DModel(**MODEL), DDPMScheduler()).save_pretrained(folder)


def python_start(folder):
    from diffusers import DDPMPipeline
    pipeline = DDPMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline(batch_size=1, num_inference_steps=1).images[0].save(pathlib.Path(folder) / "python.png")


def python_training(data, steps):
    import torch
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel
    raw = gzip.decompress((pathlib.Path(data) / "train-images-idx3-ubyte.gz").read_bytes())
    images = torch.frombuffer(bytearray(raw[16:]), dtype=torch.uint8).reshape(-1, 1, 28, 28)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=32, shuffle=True)
    model, scheduler = UNet2DModel(**MODEL), DDPMScheduler()
    ema = EMAModel(model.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=0, num_training_steps=steps)
    model.train()
    for step, (clean,) in enumerate(loader):
        if step == steps:
            break
        clean = clean.float() / 127.5 - 1
        noise = torch.randn_like(clean)
        timesteps = torch.randint(0, 1000, (clean.shape[0],))
        output = model(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
        loss = torch.nn.functional.mse_loss(output, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(model.parameters())
        loss.detach().item()


def measure(command, threads):
    """Seconds and largest resident size in bytes of a process."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    if status != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit status {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss * 1024


def report(name, unit, ours, python):
    ratios = [b / a for a, b in zip(ours, python)]
    print(f"{name:24} C++ {statistics.median(ours):9.3f} {unit:3}  Python {statistics.median(python):9.3f} {unit:3}  "
          f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, default=ROOT / "build/release/examples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--python", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = ROOT / "examples/data/mnist"
    if arguments.python:
        kind, value = arguments.python
        {"make": make_pipeline, "start": python_start, "training": lambda steps: python_training(data, int(steps))}[kind](value)
        return

    # This process imports nothing large: a child begins with the largest resident size of its parent.
    this = [sys.executable, __file__, "--python"]
    with tempfile.TemporaryDirectory() as folder:
        measure([*this, "make", folder], arguments.threads)
        sample = [arguments.programs / "sample", "--model", folder, "--num_images", "1", "--num_inference_steps", "1",
                  "--output", f"{folder}/ours.png"]
        train = [arguments.programs / "train_unconditional", "--dataset", "mnist", "--data_dir", data, "--resolution", "28",
                 "--model_config_name_or_path", f"{folder}/unet", "--train_batch_size", "32", "--use_ema", "--lr_warmup_steps", "0",
                 "--checkpointing_steps", "0", "--cpu_data_parallel", str(arguments.threads), "--report", "false",
                 "--tensorboard", "false", "--eval_batch_size", "1",
                 "--ddpm_num_inference_steps", "1", "--overwrite_output_dir", "--output_dir", f"{folder}/out", "--max_train_steps"]
        start = [[], []], [[], []]
        steps = [], []
        long_memory = [], []
        few, many = str(arguments.steps), str(3 * arguments.steps)
        for _ in range(arguments.rounds):
            for side, command in enumerate((sample, [*this, "start", folder])):
                seconds, memory = measure(command, arguments.threads)
                start[side][0].append(seconds)
                start[side][1].append(memory / 2**20)
            for side, command in enumerate((train, [*this, "training"])):
                short, _ = measure([*command, few], arguments.threads)
                long, memory = measure([*command, many], arguments.threads)
                steps[side].append(1000 * (long - short) / (2 * arguments.steps))
                long_memory[side].append(memory / 2**20)
        report("start, time", "s", start[0][0], start[1][0])
        report("start, memory", "MiB", start[0][1], start[1][1])
        report("training, time a step", "ms", *steps)
        report("training, memory", "MiB", *long_memory)


if __name__ == "__main__":
    main()
