"""N processes train as one process with N times the batch, and as Python's DistributedDataParallel."""
import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
import scaling
from launching import (Group, column_of, largest_difference, line_of, losses, must, read_tensors, require_equal_columns,
                       require_equal_losses, torchrun)

GLOBAL_BATCH = 8
CASES = {
    "plain": {"small_buckets": 1},
    "accumulation": {"accumulate": 2},
    "clipping": {"clip": 1},
    "ema": {"ema": 1},
    "min_snr": {"snr": 1},
    "odd_dataset": {"size": 61},
    "fewer_samples_than_processes": {"size": 57, "accumulate": 2},
    "label_dropout": {"model": "unet", "drop_labels": 1, "sgd": 1, "ema": 1, "clip": 1},
    "parts": {"model": "unet", "parts": 2, "sgd": 1, "size": 61, "steps": 10},
    "gradient_checkpointing": {"model": "unet", "checkpointing": 1, "sgd": 1, "steps": 10},
    "one_sample_left": {"size": 57, "steps": 20},
    "loader_threads": {"workers": 2, "size": 59},
    # Both updates from step 3 on. In the last batch of an epoch, the first process has 2 of 5 samples, or none of 1.
    "gan": {"model": "gan", "side": 16},
    "gan_odd": {"model": "gan", "side": 16, "size": 61, "ema": 1},
    "gan_one_sample_left": {"model": "gan", "side": 16, "size": 57, "steps": 20},
    "gan_vq": {"model": "gan_vq", "side": 16, "size": 61},
    "gan_nan": {"model": "gan_vq", "side": 16, "size": 61, "nan": 40, "steps": 20},  # its steps are skipped by all processes
}
ON_FOUR = ["plain", "accumulation", "odd_dataset", "fewer_samples_than_processes", "label_dropout", "gan_one_sample_left"]
RELATIVE = ["gan_vq", "gan_nan"]  # the scales of ActNorm are about 100
# Columns of metrics.csv that do not depend on the number of processes.
GAN_VALUES = {"gan": ["loss", "rec_loss", "nll_loss", "kl_loss", "g_loss", "d_weight", "rec_grad_norm", "nll_grad_norm", "g_grad_norm",
                      "kl_grad_norm", "psnr", "grad_norm"],
              "gan_vq": ["loss", "rec_loss", "codebook_loss", "perplexity", "codebook_usage", "g_loss", "d_weight", "g_grad_norm",
                         "codebook_grad_norm"]}
DDP_STEPS = 20


def cases_of(folder, names, size):
    # The options of the group are those of the first case, so all have small buckets.
    return [{"name": name, "out": folder / f"{name}-{size}", "save": folder / f"{name}-{size}", "batch": GLOBAL_BATCH // size}
            | CASES[name] for name in names]


def compare(folder, name, size):
    """Compares N processes with one."""
    ranks = [(folder / f"{name}-{size}-rank{rank}.safetensors").read_bytes() for rank in range(size)]
    must(all(rank == ranks[0] for rank in ranks), f"{name}: the parameters of {size} processes differ")
    worst = largest_difference(read_tensors(folder / f"{name}-{size}-rank0.safetensors"),
                               read_tensors(folder / f"{name}-1-rank0.safetensors"), name in RELATIVE)
    must(worst <= 1e-5, f"{name}: the parameters of {size} processes differ by {worst:.2e} from those of one")
    several, one = folder / f"{name}-{size}", folder / f"{name}-1"
    if CASES[name].get("model") in GAN_VALUES:
        for column in GAN_VALUES[CASES[name]["model"]]:
            require_equal_columns(column_of(several, column), column_of(one, column), 1e-4, f"{column} of {name} on {size}")
    else:
        require_equal_losses(losses(several), losses(one), 1e-5, f"{name} on {size}")
    print(f"{name}: {size} processes, largest difference of a parameter from one process {worst:.1e}")


def traced(driver, folder):
    """The times of the exchanges are recorded where a variable asks for it, and the training is the same."""
    case = cases_of(folder, ["plain"], 2)[0] | {"name": "traced", "out": folder / "traced", "save": folder / "traced"}
    group = Group(driver, folder / "traced-cases", [case], environment={scaling.TRACE: str(folder / "trace")})
    must(group.wait() == [0, 0], f"the traced training failed:\n{group.output()}")
    weights = folder / "traced-rank0.safetensors"
    must(weights.read_bytes() == (folder / "plain-2-rank0.safetensors").read_bytes(), "the trace changes the training")
    gradients = 4 * sum(map(len, read_tensors(weights).values()))
    for rank in range(2):
        times = scaling.exchange_times(folder / f"trace-rank{rank}-0.csv")
        must(times["bytes"] == gradients, f"a trace of {gradients} bytes of gradients: {times}")
        must(0 <= times["hidden"] <= times["exchange"] and times["exchange"] > 0 and times["backward"] > 0, f"trace: {times}")
    print(f"the trace of the exchanges: {times['buckets']:.0f} buckets, {times['bytes']:.0f} bytes in a step")


def ddp_case(folder):
    return {"name": "ddp", "out": folder / "ddp", "save": folder / "ddp", "batch": GLOBAL_BATCH // 2, "steps": DDP_STEPS,
            "log": 1, "constant": 1, "initial": folder / "initial.safetensors", "order": folder / "order.txt"}


def run(driver, python, folder):
    names = list(CASES)
    lists = {2: names, 4: ON_FOUR}
    started = []
    single = Group(driver, folder / "one", cases_of(folder, names, 1), size=1)
    for size, chosen in lists.items():
        file = folder / f"cases-{size}.txt"
        cases = cases_of(folder, chosen, size) + ([ddp_case(folder)] if size == 2 else [])
        file.write_text("".join(line_of(case) + "\n" for case in cases))
        started.append((f"{size} processes", torchrun(python, size, [driver, file], "--no-python")))
    must(single.wait() == [0], f"one process failed:\n{single.output()}")
    for what, process in started:
        must(process.wait() == 0, f"{what} failed:\n{process.output}")
    for size, chosen in lists.items():
        for name in chosen:
            compare(folder, name, size)
    traced(driver, folder)

    config = json.loads((folder / "ddp" / "training_config.json").read_text())
    (folder / "ddp.json").write_text(json.dumps({"config": config, "steps": DDP_STEPS, "folder": str(folder)}))
    theirs = torchrun(python, 2, [HERE / "ddp.py", folder / "ddp.json"])
    must(theirs.wait() == 0, f"Python's DistributedDataParallel failed:\n{theirs.output}")
    worst = require_equal_losses(losses(folder / "ddp"), json.loads((folder / "ddp-losses.json").read_text()), 1e-5,
                                 "DistributedDataParallel")
    print(f"Python's DistributedDataParallel: {DDP_STEPS} losses, largest difference {worst:.1e}")
