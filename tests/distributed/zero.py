"""Processes that divide the state of a training (zero_stage): the results and the checkpoints are those of one process."""
import json
import pathlib
import re
import shutil

from launching import Group, largest_difference, losses, must, read_tensors, require_equal_losses

GLOBAL_BATCH = 8
STEPS = 10
CASES = {
    "plain": {},
    "odd_dataset": {"size": 61},
    "fewer_samples_than_processes": {"size": 57, "accumulate": 2},
    "ema_clip": {"ema": 1, "clip": 1, "preview": 5},
    "ema_clip_accumulation": {"ema": 1, "clip": 1, "accumulate": 2},
    "lit_ema": {"ema": 1, "lit_ema": 1},
    "adafactor": {"optimizer": "adafactor"},
    "lion": {"optimizer": "lion"},
    "parts": {"model": "unet", "parts": 2, "sgd": 1, "size": 61, "steps": 5},
    "two_updates": {"model": "two", "ema": 1, "clip": 1, "every": 5},
    "checkpointing": {"model": "unet", "checkpointing": 1, "sgd": 1, "steps": 5},
}
ON_FOUR = ["plain", "fewer_samples_than_processes", "ema_clip_accumulation"]
BYTES = {"model": "unet", "ema": 1, "steps": 2, "print_bytes": 1}
SAVED = {"ema": 1, "clip": 1, "every": 5}
# Dropout draws other numbers in each process.
KILLED = {"ema": 1, "dropout": 20, "every": 5, "resume": 1}


def label(name, processes, stage):
    return f"{name}-{processes}-{stage}"


def case(folder, name, processes, stage, **keys):
    path = folder / label(name, processes, stage)
    return {"name": name, "zero": stage, "out": path, "save": path, "batch": GLOBAL_BATCH // processes, "steps": STEPS,
            "small_buckets": 1, "timeout": 20} | keys


def train(driver, folder, what, cases, processes, expected=0):
    group = Group(driver, folder / f"{what}-cases", cases, size=processes)
    must(group.wait() == [expected] * processes, f"{what}: expected the exit code {expected} of all:\n{group.output()}")
    return group.output()


def result(folder, name, processes, stage, rank=0):
    return folder / f"{label(name, processes, stage)}-rank{rank}.safetensors"


def require_same_bits(first, second, what):
    must(first.read_bytes() == second.read_bytes(), f"{what}: {first.name} and {second.name} differ")


def compare(folder, name, processes, stage):
    """Compares N processes that divide the state with one process, and two of them with two that do not."""
    what = f"{name}, zero_stage {stage} on {processes}"
    ours, one = result(folder, name, processes, stage), result(folder, name, 1, 0)
    for rank in range(1, processes):
        require_same_bits(ours, result(folder, name, processes, stage, rank), what)
    worst = largest_difference(read_tensors(ours), read_tensors(one))
    must(worst <= 1e-5, f"{what}: the parameters differ by {worst:.2e} from those of one process")
    require_equal_losses(losses(folder / label(name, processes, stage)), losses(folder / label(name, 1, 0)), 1e-5, what)
    if processes == 2 and (stage == 1 or "accumulate" not in CASES[name]):
        require_same_bits(ours, result(folder, name, 2, 0), what)  # the sum of two numbers has no order
    print(f"{what}: largest difference of a parameter from one process {worst:.1e}")


def compare_previews(folder):
    for step in (5, STEPS):
        one = read_tensors(folder / f"{label('ema_clip', 1, 0)}-preview{step}.safetensors")
        for stage in (1, 2):
            worst = largest_difference(read_tensors(folder / f"{label('ema_clip', 2, stage)}-preview{step}.safetensors"), one)
            must(worst <= 1e-5, f"zero_stage {stage}: the weights of the preview of step {step} differ by {worst:.2e}")
    print("previews see the whole average")


def compare_bytes(outputs):
    """The bytes of the optimizer's state, the averages and the gradients in each process."""
    held = {}
    for (processes, stage), output in outputs.items():
        held[processes, stage] = [json.loads(text) for text in re.findall(r"^bytes of bytes: (.*)$", output, re.MULTILINE)]
        must(len(held[processes, stage]) == processes, f"expected the bytes of {processes} processes:\n{output}")
    whole = held.pop((1, 0))[0]
    for (processes, stage), ranks in held.items():
        for key in ("moments", "averages", "gradients"):
            counts = [rank[key] for rank in ranks]
            if stage == 0 or (stage == 1 and key == "gradients"):
                must(counts == [whole[key]] * processes, f"{key} of stage {stage}: {counts}, expected {whole[key]} each")
                continue
            must(sum(counts) == whole[key], f"{key} of stage {stage}: {counts}, expected {whole[key]} together")
            must(max(counts) <= 1.02 * whole[key] / processes,
                 f"{key} of stage {stage}: {counts}, expected {whole[key]} / {processes} each, or 2 % more")
            print(f"zero_stage {stage} on {processes}: bytes of {key} {counts}, of one process {whole[key]}")


def files_of(folder):
    files = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    must(files, f"{folder} has no files")
    return files


def require_same_files(first, second):
    ours, theirs = files_of(first), files_of(second)
    must(list(ours) == list(theirs), f"{first} has the files {list(ours)}, and {second} {list(theirs)}")
    other = [name for name in ours if ours[name] != theirs[name]]
    must(not other, f"the files {other} of {first} and {second} differ")


def equality(driver, folder):
    outputs = {}
    for processes, stage in ((1, 0), (2, 0), (2, 1), (2, 2), (4, 1), (4, 2)):
        cases = [case(folder, name, processes, stage, **CASES[name]) for name in (ON_FOUR if processes == 4 else CASES)]
        cases.append(case(folder, "bytes", processes, stage, **BYTES))
        if processes < 4:
            # A checkpoint contains the name of the folder.
            cases.append(case(folder, "saved", processes, stage, out=folder / "saved", **SAVED))
            cases.append(case(folder, "whole", processes, stage, **KILLED))
        outputs[processes, stage] = train(driver, folder, f"{processes}-{stage}", cases, processes)
        if processes < 4:
            (folder / "saved").rename(folder / label("saved", processes, stage))
    for processes, stage in outputs:
        if stage > 0:
            for name in ON_FOUR if processes == 4 else CASES:
                compare(folder, name, processes, stage)
    compare_previews(folder)
    compare_bytes(outputs)
    for stage in (1, 2):
        for step in (5, STEPS):
            require_same_files(folder / label("saved", 2, stage) / f"checkpoint-{step}",
                               folder / label("saved", 2, 0) / f"checkpoint-{step}")
        require_same_bits(result(folder, "whole", 2, stage, 1), result(folder, "whole", 2, 0, 1), "dropout")
    names = [list(files_of(folder / label("saved", processes, stage) / "checkpoint-5")) for processes, stage in ((1, 0), (2, 2))]
    must(names[0] == names[1], f"one process writes {names[0]}, two {names[1]}")
    print("the checkpoints of two processes have the same bits with zero_stage 0, 1 and 2")


def killed(driver, folder):
    group = Group(driver, folder / "kill-cases", [case(folder, "killed", 2, 2, **KILLED, kill=7)])
    codes = group.wait()
    must(codes == [1, -9], f"exit codes {codes}, expected 1 and -9:\n{group.output()}")
    must("process 0: error: process 0 of 2 lost the others in" in group.output(), group.output())


def resume(driver, folder):
    """From step 5 of any number of processes and any stage, and from the last checkpoint before a process was killed."""
    for processes, stage, befores in ((1, 0, [(2, 1)]), (2, 1, [(1, 0), (2, 0), (2, 1)]), (2, 2, [(2, 1), (2, 2)])):
        for before in befores:
            out = folder / f"from-{label('saved', *before)}"
            shutil.copytree(folder / label("saved", *before), out)
            shutil.rmtree(out / f"checkpoint-{STEPS}")
        cases = [case(folder, f"from-{label('saved', *before)}", processes, stage, **SAVED, resume=1, background=before[1] % 2,
                      out=folder / f"from-{label('saved', *before)}") for before in befores]
        if stage == 2:
            cases.append(case(folder, "killed", 2, 2, **KILLED))
        train(driver, folder, f"resume-{processes}-{stage}", cases, processes)
        for before in befores:
            name = f"from-{label('saved', *before)}"
            end = result(folder, name, processes, stage)
            if processes == before[0]:
                require_same_bits(end, result(folder, "saved", processes, stage), name)
                for file in ("optimizer.safetensors", "trainer_state.safetensors"):
                    require_same_bits(folder / name / f"checkpoint-{STEPS}" / file,
                                      folder / label("saved", processes, stage) / f"checkpoint-{STEPS}" / file, name)
            worst = largest_difference(read_tensors(end), read_tensors(result(folder, "saved", 1, 0)))
            must(worst <= 1e-5, f"{name}: the parameters differ by {worst:.2e} from those of one process")
            shutil.rmtree(folder / name)
        print(f"{processes} processes with zero_stage {stage} resume from {befores} (processes, zero_stage)")
    for rank in range(2):
        require_same_bits(result(folder, "killed", 2, 2, rank), result(folder, "whole", 2, 2, rank), "SIGKILL")
    print("SIGKILL of a process with zero_stage 2: the training that is started again ends with the same bits")


def options(driver, folder):
    """Unused parameters, gradients in bfloat16, stages that differ, and a process that trains alone."""
    output = train(driver, folder, "unused", [case(folder, "unused", 2, 2, model="unused")], 2, expected=1)
    must("set find_unused_parameters to true" in output, output)
    train(driver, folder, "found", [case(folder, "found", 2, 2, model="unused", find_unused=1, bf16=1)], 2)
    require_same_bits(result(folder, "found", 2, 2, 0), result(folder, "found", 2, 2, 1), "bfloat16")
    unused = read_tensors(result(folder, "found", 2, 2))["unet.unused"]
    must(list(unused) == [1, 1, 1], f"the parameter that no loss uses is {list(unused)}, expected ones")
    output = train(driver, folder, "differ", [case(folder, "differ", 2, 1, wrong_stage_rank=1)], 2, expected=1)
    must("zero_stage is 1 in process 0, but 2 in process 1" in output, output)
    train(driver, folder, "alone", [case(folder, "plain", 1, 2)], 1)
    require_same_bits(result(folder, "plain", 1, 2), result(folder, "plain", 1, 0), "one process")
    print("unused parameters, gradients in bfloat16, stages that differ, and a process alone: as expected")


def run(driver, _, folder):
    equality(driver, folder)
    killed(driver, folder)
    resume(driver, folder)
    options(driver, folder)
