#!/usr/bin/env python3
"""This library beside Python diffusers on the CPU: time, memory and the share of the machine's rate, in one run.

    cmake --build --preset release --target compare
    ~/.cache/libdiffusers/reference-0.42.1/bin/python benchmarks/compare.py [--rows ROW ...] [--rounds 7]
        [--size reduced|full|quick] [--threads N] [--no_compile] [--one_at_a_time] [--reference] [--avx2]
        [--only C++|Python] [--output FILE] [--docs]

| row | what is measured | compared with |
|---|---|---|
| mnist_step_64, mnist_step_128 | a training step of the model of `train_mnist`: AdamW, clipping, EMA; as the Trainer runs by default | Python |
| mnist_step_64_one_part, mnist_step_128_one_part | the same with `cpu_data_parallel` 1 | Python |
| mnist_step_64_busy | mnist_step_64 while another process keeps a core busy; both sides without variables of OpenMP | Python |
| mnist_step_64_automatic | mnist_step_64 | this library with `cpu_data_parallel` 1 |
| mnist_step_64_bf16, unet_step_bf16 | a step with `mixed_precision` "bf16" | this library in float32 |
| unet_step_fused_backward | unet_step with `fused_backward_pass`, for its memory | this library's unet_step |
| ddim_50 | DDIMPipeline, 64 digits, 50 steps | Python |
| unet_step | a training step of Stable Diffusion's UNet, batch 2, on latents and embeddings | Python |
| unet_step_batch_1 | the same with batch 1; `--size full` has Stable Diffusion 1.5's widths (18 GiB for each side) | Python |
| lora_step | unet_step with LoRA of rank 4 on the attention | Python with PEFT |
| lora_step_vs_full | lora_step | this library's unet_step; a ratio of 1.33 is a share of 0.75 |
| lora_inference_fused, lora_inference_active | the UNet without gradients, with an adapter that is fused or active | this library without an adapter |
| vae_encode, vae_decode | AutoencoderKL, one image of 512 x 512 | Python |
| clip_encode | the CLIP text encoder, 8 prompts | Python |
| text_to_image_step | a training step with VAE, text encoder and UNet, batch 2 | Python |
| start | from the start of the process to the end of the first training step | Python |
| load | UNet2DConditionModel.from_pretrained, the file is in the page cache | Python |

The sides take turns: each row starts one process for each side and variant, and every round measures once in each of them
while the others wait. The variants of Python are eager, channels_last and torch.compile (which needs g++; --no_compile leaves
it out). The ratio is that of the best variant, the one with the smallest median. A first measurement of each process is not
counted. --size sets the widths of Stable Diffusion's models: a fifth (reduced), full, or a few layers (quick: a smoke test,
whose times mean nothing). With --one_at_a_time, each round starts and ends one process after another, so that the memory holds
only one of them.

The limit is the larger of two times, at rates that are measured in the same run: that of the row's floating point operations
at the rate of a product of 1024 x 1024 matrices, and that of the bytes of the parameters at the rate of a copy. A training step
reads each parameter three times and writes it once, and reads and writes its gradient, both moments of AdamW and the EMA. FLOPs
are counted by torch.utils.flop_counter. Fewer operations than counted, as Winograd's convolutions need, may give a share above
100 %. Memory is the largest resident size of the process.

--reference runs this library with DIFFUSERS_FUSED=0, without its own kernels. With --avx2 both sides use no AVX-512. --docs writes the table into docs/performance.md.
"""
import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEER = pathlib.Path(__file__).with_name("compare_peer.py")
PROGRAM = ROOT / "build/release/benchmarks/compare"
VARIANTS = ("eager", "channels_last", "compile")  # of Python
TOKENIZER = ROOT / "tests/golden/tiny_stable_diffusion/tokenizer"
MNIST = ROOT / "examples/data/mnist"
DOCS = ROOT / "docs/performance.md"
# This library, LibTorch's own kernels, oneDNN and MKL without AVX-512.
AVX2 = {"DIFFUSERS_CPU_CAPABILITY": "avx2", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}  # fmt: skip
DOCS_BEGIN, DOCS_END = "<!-- The table of benchmarks/compare.py --docs -->", "<!-- End of the table -->"
# Parameters of a training step that are read or written: three reads and a write of the weight, a write and a read of the
# gradient, two reads and two writes of the moments.
STEP_PASSES, EMA_PASSES = 10, 2


@dataclasses.dataclass
class Row:
    """A row of the table: the work that the programs of both sides know by `work`, and the flags of this library."""
    work: str
    flags: tuple = ()
    against: tuple = ()  # another side of this library: its name, its work and its flags. Empty: Python
    passes: int = 0  # of reads and writes of the parameters; 0: not counted
    is_busy: bool = False  # another process keeps a core busy
    has_flops: bool = True
    is_process: bool = False  # the whole process is measured


ROWS = {
    "mnist_step_64": Row("mnist_step_64", passes=STEP_PASSES + EMA_PASSES),
    "mnist_step_64_one_part": Row("mnist_step_64", ("--parts", 1), passes=STEP_PASSES + EMA_PASSES),
    "mnist_step_64_busy": Row("mnist_step_64", is_busy=True, has_flops=False),
    "mnist_step_64_automatic": Row("mnist_step_64", against=("one part", "mnist_step_64", ("--parts", 1))),
    "mnist_step_64_bf16": Row("mnist_step_64", ("--precision", "bf16"), ("float32", "mnist_step_64", ())),
    "mnist_step_128": Row("mnist_step_128", passes=STEP_PASSES + EMA_PASSES),
    "mnist_step_128_one_part": Row("mnist_step_128", ("--parts", 1), passes=STEP_PASSES + EMA_PASSES),
    "ddim_50": Row("ddim_50", passes=50),
    "unet_step": Row("unet_step", passes=STEP_PASSES),
    "unet_step_bf16": Row("unet_step", ("--precision", "bf16"), ("float32", "unet_step", ())),
    "unet_step_fused_backward": Row("unet_step", ("--fused_backward", "yes"), ("plain step", "unet_step", ())),
    "unet_step_batch_1": Row("unet_step", ("--batch", 1), passes=STEP_PASSES),
    "lora_step": Row("lora_step"),
    "lora_step_vs_full": Row("lora_step", against=("full step", "unet_step", ())),
    "lora_inference_fused": Row("unet_forward", ("--adapter", "fused"), ("no adapter", "unet_forward", ())),
    "lora_inference_active": Row("unet_forward", ("--adapter", "active"), ("no adapter", "unet_forward", ())),
    "vae_encode": Row("vae_encode"),
    "vae_decode": Row("vae_decode"),
    "clip_encode": Row("clip_encode", passes=1),
    "text_to_image_step": Row("text_to_image_step", passes=STEP_PASSES),
    "start": Row("start", has_flops=False, is_process=True),
    "load": Row("load", has_flops=False, passes=2),
}


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


def flag_value(flags, name, default):
    return flags[flags.index(name) + 1] if name in flags else default


def commands_of(row, arguments, folder):
    """The processes of a row: name -> command. The name of the measured side is C++."""
    commands = {}

    def add_own(name, work, flags):
        out = pathlib.Path(folder) / name  # two trainings cannot share a folder
        out.mkdir(exist_ok=True)
        commands[name] = [arguments.program, work, "--size", arguments.size, *flags, "--folder", out, "--tokenizer", TOKENIZER,
                          "--mnist", MNIST]  # fmt: skip

    if arguments.only != "Python":
        add_own("C++", row.work, row.flags)
    if row.against:
        if not arguments.only:
            add_own(*row.against)
        return commands
    if arguments.only != "C++":
        variants = ["eager"]
        if row.work not in ("start", "load"):
            variants += ["channels_last"] if row.work != "clip_encode" else []
            variants += [] if arguments.no_compile or arguments.size == "quick" else ["compile"]
        for variant in variants:
            commands[variant] = [sys.executable, PEER, row.work, arguments.size, variant, folder,
                                 flag_value(row.flags, "--batch", 2)]  # fmt: skip
    return commands


def environment_of(row, name, arguments):
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("OMP_", "GOMP_", "KMP_", "MKL_"))}  # fmt: skip
    if not row or not row.is_busy:
        environment["OMP_NUM_THREADS"] = str(arguments.threads)
    if arguments.avx2:
        environment |= AVX2
    if arguments.reference and name not in VARIANTS:
        environment["DIFFUSERS_FUSED"] = "0"
    return environment


@contextlib.contextmanager
def busy_neighbour(is_wanted):
    """Another process keeps a core busy until the scope ends."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if is_wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def measure_row(row, arguments, folder):
    """Returns name -> Worker, and the FLOPs of the row or None."""
    commands = commands_of(row, arguments, folder)

    def start(name):
        return Worker(name, commands[name], environment_of(row, name, arguments))

    if row.is_process:
        workers = {}
        for number in range(arguments.rounds + 1):
            for name in commands:
                worker = start(name)
                worker.end()
                worker.seconds = [] if number == 0 else [*workers[name].seconds, worker.start_seconds]
                workers[name] = worker
        return workers, None
    if arguments.one_at_a_time:
        return measure_one_at_a_time(row, arguments, commands, start)
    workers, flops = {name: start(name) for name in commands}, None
    if "eager" in workers and row.has_flops:
        flops = workers["eager"].order("flops")["flops"]
    with busy_neighbour(row.is_busy):
        for number in range(arguments.rounds + 1):
            for worker in workers.values():
                seconds = worker.order()["seconds"]
                if number > 0:
                    worker.seconds.append(seconds)
    for worker in workers.values():
        worker.end()
    return workers, flops


def measure_one_at_a_time(row, arguments, commands, start):
    """As measure_row. Each round starts a process for each side, and ends it before the next one starts."""
    workers, flops, seconds = {}, None, {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name in commands:
            worker = start(name)
            if name == "eager" and row.has_flops and flops is None:
                flops = worker.order("flops")["flops"]
            with busy_neighbour(row.is_busy):
                worker.order()
                seconds[name].append(worker.order()["seconds"])
            worker.end()
            worker.seconds = seconds[name]
            workers[name] = worker
    return workers, flops


def least_seconds(work, arguments, folder):
    """The fastest of many runs of a work that measures the machine."""
    command = [arguments.program, work, "--size", arguments.size, "--folder", folder, "--tokenizer", TOKENIZER, "--mnist", MNIST]
    worker = Worker(work, command, environment_of(None, "C++", arguments))
    seconds = min(worker.order()["seconds"] for _ in range(20))
    worker.end()
    return seconds


@dataclasses.dataclass
class Rates:
    """What the machine reaches: FLOP per second of a matrix product, bytes per second of a copy (read and written)."""
    flops: float
    bytes: float

    def seconds(self, flops, passes, parameters):
        """The time that a work takes at least; None if nothing of it was counted."""
        times = [flops / self.flops if flops else 0, passes * 4 * parameters / self.bytes]
        return max(times) or None


def measure_rates(arguments, folder):
    is_quick = arguments.size == "quick"
    return Rates(2 * (256 if is_quick else 1024)**3 / least_seconds("matrix_product", arguments, folder),
                 2 * 4 * 2**(21 if is_quick else 26) / least_seconds("copy", arguments, folder))


def spread(values):
    return f"{1000 * statistics.median(values):.1f} ({1000 * min(values):.1f} to {1000 * max(values):.1f})"


def table_row(name, row, workers, flops, rates):
    """The cells of a row of the table. A cell without a value is empty."""
    ours = workers.get("C++")
    peers = [worker for name, worker in workers.items() if name != "C++"]
    best = min(peers, key=lambda worker: statistics.median(worker.seconds), default=None)
    cells = [name, spread(ours.seconds) if ours else "", f"{spread(best.seconds)} {best.name}" if best else ""]
    if ours and best:
        ratios = [b / a for a, b in zip(ours.seconds, best.seconds)]
        cells.append(f"{statistics.median(best.seconds) / statistics.median(ours.seconds):.2f} "
                     f"({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip
        cells.append(f"{min(best.seconds) / min(ours.seconds):.2f}")
    else:
        cells += ["", ""]
    limit = rates.seconds(flops, row.passes, ours.parameters) if ours and rates and (flops or not row.has_flops) else None
    cells.append(f"{1000 * limit:.1f}" if limit else "")
    cells.append(f"{100 * limit / min(ours.seconds):.0f} %" if limit else "")
    cells += [f"{worker.peak / 2**20:.0f}" if worker else "" for worker in (ours, best)]
    return cells


HEADER = ("row", "libdiffusers, ms", "compared with, ms", "ratio of medians (range)", "ratio of minima", "limit, ms",
          "share of the limit", "memory, MiB", "the other's memory, MiB")  # fmt: skip


def write_docs(lines, path):
    """Replaces the table between the two comments."""
    text = path.read_text()
    begin, end = text.find(DOCS_BEGIN), text.find(DOCS_END)
    if begin < 0 or end < begin:
        sys.exit(f"{path}: expected the lines {DOCS_BEGIN!r} and {DOCS_END!r}")
    path.write_text(text[:begin] + DOCS_BEGIN + "\n" + "\n".join(lines) + "\n" + text[end:])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, default=PROGRAM)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", choices=("reduced", "full", "quick"), default="reduced")
    parser.add_argument("--quick", dest="size", action="store_const", const="quick", help="--size quick")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no_compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--one_at_a_time", action="store_true", help="hold one process in memory, for --size full")
    parser.add_argument("--reference", action="store_true", help="run this library with DIFFUSERS_FUSED=0")
    parser.add_argument("--avx2", action="store_true", help="let no side use AVX-512")
    parser.add_argument("--only", choices=("C++", "Python"), help="run one side alone")
    parser.add_argument("--output", type=pathlib.Path, help="also write the table to this file")
    parser.add_argument("--docs", nargs="?", type=pathlib.Path, const=DOCS, metavar="FILE",
                        help="also write the table into docs/performance.md")  # fmt: skip
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        sys.exit(f"--rounds is {arguments.rounds}, expected at least 1")

    # This process imports nothing large: a child begins with the largest resident size of its parent.
    lines = []

    def show(line):
        lines.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        rates = measure_rates(arguments, folder) if arguments.only != "Python" else None
        where = "without own kernels, " if arguments.reference else ""
        where += "AVX2, " if arguments.avx2 else ""
        at_rates = f", matrix products at {rates.flops / 1e9:.1f} GFLOP/s, copies at {rates.bytes / 1e9:.1f} GB/s" if rates else ""
        show(f"{where}size {arguments.size}, {arguments.threads} threads, {arguments.rounds} rounds{at_rates}")
        if arguments.no_compile and arguments.only != "C++":
            show("torch.compile was left out (--no_compile)")
        show("")
        show("| " + " | ".join(HEADER) + " |")
        show("|---" * len(HEADER) + "|")
        for name in arguments.rows:
            row = ROWS[name]
            workers, flops = measure_row(row, arguments, folder)
            if not workers:  # both sides are this library's
                continue
            counts = {worker.parameters for worker in workers.values()}
            if len(counts) != 1 and not row.against:
                sys.exit(f"{name}: the models have {' and '.join(map(str, sorted(counts)))} parameters, expected equal numbers")
            show("| " + " | ".join(table_row(name, row, workers, flops, rates)) + " |")
    if arguments.docs:
        write_docs(lines, arguments.docs)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
