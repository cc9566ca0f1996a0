#!/usr/bin/env python3
"""This library beside Python diffusers on the CPU: time, memory and the share of the machine's rate, in one run.

    cmake --build --preset release --target compare
    ~/.cache/libdiffusers/reference-0.42.1/bin/python benchmarks/compare.py [--rows ROW ...] [--rounds 7]
        [--size reduced|full|quick] [--threads N] [--no_compile] [--reference] [--only C++|Python] [--output FILE]

| row | what is measured |
|---|---|
| mnist_step_64, mnist_step_128 | a training step of the model of `train_mnist`: AdamW, clipping, EMA; as the Trainer runs by default |
| mnist_step_64_one_part, mnist_step_128_one_part | the same with `cpu_data_parallel` 1 |
| ddim_50 | DDIMPipeline, 64 digits, 50 steps |
| unet_step | a training step of Stable Diffusion's UNet, batch 2, on latents and embeddings |
| vae_encode, vae_decode | AutoencoderKL, one image of 512 x 512 |
| clip_encode | the CLIP text encoder, 8 prompts |
| text_to_image_step | a training step with VAE, text encoder and UNet, batch 2 |
| start | from the start of the process to the end of the first training step |
| load | UNet2DConditionModel.from_pretrained, the file is in the page cache |

The sides take turns: each row starts one process for this library and one for each variant of Python, and every round measures
once in each of them while the others wait. The variants of Python are eager, channels_last and torch.compile (which needs g++;
--no_compile leaves it out). The ratio is that of the best variant, the one with the smallest median. A first measurement of
each process is not counted. --size sets the widths of Stable Diffusion's models: a fifth (reduced), full, or a few layers
(quick: a smoke test, whose times mean nothing).

The limit is the time that the row's floating point operations take at the rate of a product of 1024 x 1024 matrices, measured
in the same run. FLOPs are counted by torch.utils.flop_counter. Fewer operations than counted, as Winograd's convolutions need,
may give a share above 100 %. Memory is the largest resident size of the process.

--reference runs this library with DIFFUSERS_FUSED=0, without its own kernels.
"""
import argparse
import gzip
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "build/release/benchmarks/compare"
TOKENIZER = ROOT / "tests/golden/tiny_stable_diffusion/tokenizer"
MNIST = ROOT / "examples/data/mnist"
ROWS = ("mnist_step_64", "mnist_step_64_one_part", "mnist_step_128", "mnist_step_128_one_part", "ddim_50", "unet_step",
        "vae_encode", "vae_decode", "clip_encode", "text_to_image_step", "start", "load")  # fmt: skip
# Rows whose whole process is measured, and rows that do not compute with the model.
PROCESS_ROWS, NO_FLOPS = ("start",), ("start", "load")
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

    def __init__(self, size, variant, folder):
        import torch
        self.torch, self.size, self.variant, self.folder = torch, size, variant, folder
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
        scheduler, parameters = DDPMScheduler(), list(unet.parameters())
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

    def unet_step(self):
        torch = self.torch
        from diffusers import UNet2DConditionModel
        side = pick(self.size, 32, 64, 8)
        latents = torch.randn(2, 4, side, side).clamp(-1, 1)
        text = torch.randn(1, 77, text_config(self.size)["hidden_size"]).expand(2, -1, -1)
        return self.training(UNet2DConditionModel(**unet_config(self.size)), lambda: (latents, (text,)))

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


def run_peer(row, size, variant, folder):
    """Speaks as compare.cpp does; "flops" counts operations instead of measuring."""
    model, work = getattr(Peer(size, variant, folder), row)()
    if row in PROCESS_ROWS:
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


class Worker:
    """A process that measures one row on one side."""

    def __init__(self, name, command, environment):
        self.name, self.seconds, self.peak = name, [], 0
        self.begin = time.perf_counter()
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)  # fmt: skip
        self.parameters = self.answer()["parameters"]
        self.start_seconds = time.perf_counter() - self.begin

    def answer(self):
        line = self.process.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"{self.name}: {line.strip() or 'no answer'} (exit status {self.process.wait()})")
        return json.loads(line)

    def order(self, what="measure"):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.process.stdin.close()
        self.peak = self.answer()["peak"]
        if self.process.wait() != 0:
            sys.exit(f"{self.name}: exit status {self.process.returncode}")


def commands_of(row, arguments, folder):
    """The processes of a row: name -> command."""
    program_row = row.removesuffix("_one_part")
    commands = {}
    if arguments.only != "Python":
        parts = 1 if row.endswith("_one_part") else 0
        commands["C++"] = [arguments.program, program_row, "--size", arguments.size, "--parts", parts, "--folder", folder,
                           "--tokenizer", TOKENIZER, "--mnist", MNIST]  # fmt: skip
    if arguments.only != "C++":
        variants = ["eager"]
        if row not in ("start", "load"):
            variants += ["channels_last"] if row != "clip_encode" else []
            variants += [] if arguments.no_compile or arguments.size == "quick" else ["compile"]
        for variant in variants:
            commands[variant] = [sys.executable, __file__, "--peer", program_row, arguments.size, variant, folder]
    return commands


def environment_of(name, arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    if name == "C++" and arguments.reference:
        environment["DIFFUSERS_FUSED"] = "0"
    return environment


def measure_row(row, arguments, folder):
    """Returns name -> Worker, and the FLOPs of the row or None."""
    commands = commands_of(row, arguments, folder)

    def start(name):
        return Worker(name, commands[name], environment_of(name, arguments))

    if row in PROCESS_ROWS:
        workers = {}
        for number in range(arguments.rounds + 1):
            for name in commands:
                worker = start(name)
                worker.end()
                worker.seconds = [] if number == 0 else [*workers[name].seconds, worker.start_seconds]
                workers[name] = worker
        return workers, None
    workers, flops = {name: start(name) for name in commands}, None
    if "eager" in workers and row not in NO_FLOPS:
        flops = workers["eager"].order("flops")["flops"]
    for number in range(arguments.rounds + 1):
        for worker in workers.values():
            seconds = worker.order()["seconds"]
            if number > 0:
                worker.seconds.append(seconds)
    for worker in workers.values():
        worker.end()
    return workers, flops


def matrix_rate(arguments, folder):
    """FLOP per second of a matrix product: the fastest of many."""
    side = 256 if arguments.size == "quick" else 1024
    command = [arguments.program, "matrix_product", "--size", arguments.size, "--folder", folder, "--tokenizer", TOKENIZER,
               "--mnist", MNIST]  # fmt: skip
    worker = Worker("matrix product", command, environment_of("", arguments))
    rate = 2 * side**3 / min(worker.order()["seconds"] for _ in range(20))
    worker.end()
    return rate


def spread(values):
    return f"{1000 * statistics.median(values):.1f} ({1000 * min(values):.1f} to {1000 * max(values):.1f})"


def table_row(row, workers, flops, rate):
    """The cells of a row of the table. A cell without a value is empty."""
    ours = workers.get("C++")
    peers = [worker for name, worker in workers.items() if name != "C++"]
    best = min(peers, key=lambda worker: statistics.median(worker.seconds), default=None)
    cells = [row, spread(ours.seconds) if ours else "", f"{spread(best.seconds)} {best.name}" if best else ""]
    if ours and best:
        ratios = [b / a for a, b in zip(ours.seconds, best.seconds)]
        cells.append(f"{statistics.median(best.seconds) / statistics.median(ours.seconds):.2f} "
                     f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
        cells.append(f"{min(best.seconds) / min(ours.seconds):.2f}")
    else:
        cells += ["", ""]
    cells.append(f"{1000 * flops / rate:.1f}" if flops and rate else "")
    cells.append(f"{100 * flops / rate / min(ours.seconds):.0f} %" if flops and rate and ours else "")
    cells += [f"{worker.peak / 2**20:.0f}" if worker else "" for worker in (ours, best)]
    return cells


HEADER = ("row", "libdiffusers, ms", "best of Python, ms", "ratio of medians (range)", "ratio of minima", "limit, ms",
          "share of the rate", "memory, MiB", "Python's memory, MiB")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", choices=("reduced", "full", "quick"), default="reduced")
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="--size quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--reference", action="store_true", help="run this library with DIFFUSERS_FUSED=0")
    parser.add_argument("--only", choices=("C++", "Python"), help="run one side alone")
    parser.add_argument("--output", type=pathlib.Path, help="also write the table to this file")
    parser.add_argument("--peer", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer:
        return run_peer(*arguments.peer)
    if arguments.rounds < 1:
        sys.exit(f"--rounds is {arguments.rounds}, expected at least 1")

    # This process imports nothing large: a child begins with the largest resident size of its parent.
    lines = []

    def show(line):
        lines.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        rate = matrix_rate(arguments, folder) if arguments.only != "Python" else None
        where = "without own kernels, " if arguments.reference else ""
        at_rate = f", matrix products at {rate / 1e9:.1f} GFLOP/s" if rate else ""
        show(f"{where}size {arguments.size}, {arguments.threads} threads, {arguments.rounds} rounds{at_rate}\n")
        show("| " + " | ".join(HEADER) + " |")
        show("|---" * len(HEADER) + "|")
        for row in arguments.rows:
            workers, flops = measure_row(row, arguments, folder)
            counts = {worker.parameters for worker in workers.values()}
            if len(counts) != 1:
                sys.exit(f"{row}: the models have {' and '.join(map(str, sorted(counts)))} parameters, expected equal numbers")
            show("| " + " | ".join(table_row(row, workers, flops, rate)) + " |")
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
