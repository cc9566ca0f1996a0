"""Processes that end, stop, disagree or do not find each other."""
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import time

import hosts
from launching import (Group, Process, clean_environment, free_port, launch_variables, line_of, must, read_tensors,
                       torchrun)

STEPS = 20


def case(folder, name, **keys):
    return {"name": name, "out": folder / name, "save": folder / name, "batch": 4, "steps": STEPS, "dropout": 20, "ema": 1,
            "timeout": 20} | keys


def same(folder, first, second, size=2):
    for rank in range(size):
        a, b = (folder / f"{name}-rank{rank}.safetensors" for name in (first, second))
        must(a.read_bytes() == b.read_bytes(), f"process {rank} of {second} ends with other parameters than {first}")


def checkpoints(out):
    return sorted(int(path.name.split("-")[1]) for path in pathlib.Path(out).glob("checkpoint-*"))


def must_say(group, *texts):
    for text in texts:
        must(text in group.output(), f"expected the text {text!r} in:\n{group.output()}")


def undisturbed(driver, folder):
    group = Group(driver, folder / "whole-cases", [case(folder, "whole")], kind="torchrun")
    must(group.wait() == [0, 0], f"the undisturbed training failed:\n{group.output()}")


def stop_signal(driver, folder):
    """SIGTERM to one process stops both after the same step; the checkpoint goes on bit for bit."""
    group = Group(driver, folder / "term-cases", [case(folder, "term", term=7)], kind="slurm")
    must(group.wait() == [143, 143], f"expected the exit code 143 of both:\n{group.output()}")
    must(group.output().count("ended at step 7") == 2, f"expected both to end at step 7:\n{group.output()}")
    must(checkpoints(folder / "term") == [7], f"checkpoints {checkpoints(folder / 'term')}, expected that of step 7")
    shutil.copytree(folder / "term", folder / "one")
    shutil.copytree(folder / "term", folder / "three")
    group = Group(driver, folder / "resume-cases", [case(folder, "term", resume=1)], kind="mpich")
    must(group.wait() == [0, 0], f"the resumed training failed:\n{group.output()}")
    same(folder, "whole", "term")
    print("SIGTERM to one process: both stop after step 7, and go on bit for bit")

    # 7 batches of 8 samples are 56 samples: a process alone goes on with batches of 8, three with batches of 3 each.
    group = Group(driver, folder / "one-cases", [case(folder, "one", resume=1, batch=8)], size=1)
    must(group.wait() == [0], f"one process did not resume:\n{group.output()}")
    must("a second time" not in group.output(), group.output())
    group = Group(driver, folder / "three-cases", [case(folder, "three", resume=1, batch=3)], size=3)
    must(group.wait() == [0, 0, 0], f"three processes did not resume:\n{group.output()}")
    must_say(group, "the checkpoint was trained by 2 processes, and 3 go on with batches of 9 samples in all: 2 samples")
    print("one and three processes resume from the checkpoint of two")


def request_stop(driver, folder):
    """`request_stop` in one process."""
    group = Group(driver, folder / "request-cases", [case(folder, "request", request_stop=3)])
    must(group.wait() == [0, 0] and group.output().count("ended at step 3") == 2,
         f"expected both to end at step 3:\n{group.output()}")
    print("request_stop in one process stops both")


def killed(driver, folder):
    """SIGKILL of one process: the other one ends with an error."""
    group = Group(driver, folder / "kill-cases", [case(folder, "kill", kill=7, every=5)])
    codes = group.wait()
    must(codes == [1, -9], f"exit codes {codes}, expected 1 and -9:\n{group.output()}")
    must_say(group, "process 0: error: process 0 of 2 lost the others in", "resume_from_checkpoint")
    must(checkpoints(folder / "kill") == [5], "expected the checkpoint of step 5")
    print("SIGKILL of one process: the other one ends with an error")


def restarted(driver, python, folder):
    """torchrun starts a group anew whose process was killed; the end is that of an undisturbed training."""
    file = folder / "restart.txt"
    file.write_text(line_of(case(folder, "restart", kill=7, every=5, resume=1)) + "\n")
    process = torchrun(python, 2, [driver, file], "--no-python", "--max-restarts", "1")
    must(process.wait() == 0, f"torchrun did not restart the training:\n{process.output}")
    same(folder, "whole", "restart")
    print("torchrun's restart after SIGKILL: the end is that of an undisturbed training")


def silent(driver, folder):
    """A process that stops answering: the others end after the timeout."""
    group = Group(driver, folder / "halt-cases", [case(folder, "halt", halt=4, timeout=3)])
    start = time.monotonic()
    code = group.processes[0].wait(60)
    group.processes[1].process.kill()
    group.processes[1].wait()
    must(code == 1, f"the exit code is {code}, expected 1:\n{group.output()}")
    must_say(group, "did not answer within 3 s")
    print(f"a process that stops answering: the other one ends after {time.monotonic() - start:.0f} s (timeout 3 s)")


def full_disk(driver, folder):
    """A disk that is full in rank 0: all end with its message."""
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    out, preexec, expected = folder / "full", limit, "File too large"
    out.mkdir()
    is_mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20k", "tmpfs", out], capture_output=True).returncode == 0
    if is_mounted:
        preexec, expected = None, "No space left on device"
    try:
        group = Group(driver, folder / "full-cases", [case(folder, "full", every=5, background=0)], preexec=preexec)
        codes = group.wait()
    finally:
        if is_mounted:
            subprocess.run(["umount", out], check=True)
    must(codes == [1, 1], f"exit codes {codes}, expected 1 and 1:\n{group.output()}")
    must_say(group, f"process 1: error: process 0 of 2 stopped: ", expected)
    must(group.output().count(expected) == 2, f"expected the message of rank 0 from both:\n{group.output()}")
    print(f"a full disk in rank 0: both end with its message ({expected})")


def disagreement(driver, folder):
    """Options and data that differ."""
    group = Group(driver, folder / "wrong-cases", [case(folder, "wrong", wrong_rank=1)])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "learning_rate is 0.001 in process 0, but 0.005 in process 1")
    port = free_port()
    processes = []
    for rank, size in enumerate((64, 60)):
        file = folder / f"size-{size}.txt"
        file.write_text(line_of(case(folder, "size", size=size)) + "\n")
        processes.append(Process([driver, file], launch_variables("open_mpi", rank, 2, port)))
    must([process.wait() for process in processes] == [1, 1], "expected both to fail")
    for process in processes:
        must("the size of the dataset is 64 in process 0, but 60 in process 1" in process.output, process.output)
    print("options and data that differ are named")


def refused(driver, folder):
    """Tasks and groups that several processes cannot train."""
    group = Group(driver, folder / "adaptive-cases", [case(folder, "adaptive", sampling="loss_second_moment")])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "2 processes train together, but timestep_sampling \"loss_second_moment\"")
    group = Group(driver, folder / "norm-cases", [case(folder, "norm", model="batch_norm")])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "has batch normalisation, whose statistics are those of whole batches; use SyncBatchNorm2d")
    group = Group(driver, folder / "gan-cases", [case(folder, "gan", model="gan", accumulate=2)])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "2 processes train together, but gradient_accumulation_steps is 2, and the discriminator")
    group = Group(driver, folder / "unused-cases", [case(folder, "unused", model="unused")])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "set find_unused_parameters to true")
    group = Group(driver, folder / "found-cases", [case(folder, "found", model="unused", find_unused=1)])
    must(group.wait() == [0, 0], f"find_unused_parameters did not help:\n{group.output()}")
    group = Group(driver, folder / "small-cases", [case(folder, "small", size=1)])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "the dataset has 1 samples for 2 processes")
    group = Group(driver, folder / "fused-cases", [case(folder, "fused", fused_backward=1)])
    must(group.wait() == [1, 1], f"expected both to fail:\n{group.output()}")
    must_say(group, "fused_backward_pass is true, but the processes of a group exchange the gradients")
    print("what several processes cannot train is refused")


def compressed(driver, folder):
    """Gradients in bfloat16: the processes stay equal, and close to the others."""
    group = Group(driver, folder / "bf16-cases", [case(folder, "bf16", bf16=1, dropout=0),
                                                  case(folder, "bf16", bf16=1, dropout=0)])
    must(group.wait() == [0, 0], f"the training failed:\n{group.output()}")
    first, second = (folder / f"bf16-rank{rank}.safetensors" for rank in (0, 1))
    must(first.read_bytes() == second.read_bytes(), "the parameters of the processes differ")
    print("gradients in bfloat16: the processes stay equal")


def no_rendezvous(driver, folder):
    """Addresses and ports that do not lead to rank 0."""
    file = folder / "alone.txt"
    file.write_text(line_of(case(folder, "alone", timeout=2)) + "\n")
    port = free_port()
    started = {}
    for what, rank, address in (("wrong port", 1, "127.0.0.1"), ("unknown name", 1, "no-such-host.invalid"),
                                ("missing process", 0, "127.0.0.1")):
        number = port if what != "missing process" else free_port()
        started[what] = (Process([driver, file], launch_variables("open_mpi", rank, 2, number, address)), address, number)
    for what, (process, address, number) in started.items():
        start = time.monotonic()
        must(process.wait(60) == 1, f"{what}: the exit code is not 1:\n{process.output}")
        must(f"MASTER_ADDR {address} and MASTER_PORT {number} within 2 s" in process.output, f"{what}:\n{process.output}")
        message = next(line for line in process.output.splitlines() if line.startswith("error: "))
        print(f"{what}: {time.monotonic() - start:.0f} s, {message[:160]}")
    variables = launch_variables("open_mpi", 1, 2, port)
    del variables["MASTER_PORT"]
    process = Process([driver, file], variables)
    must(process.wait() == 1 and "MASTER_PORT is not set" in process.output, process.output)


def run(driver, python, folder):
    undisturbed(driver, folder)
    stop_signal(driver, folder)
    request_stop(driver, folder)
    killed(driver, folder)
    restarted(driver, python, folder)
    silent(driver, folder)
    full_disk(driver, folder)
    disagreement(driver, folder)
    refused(driver, folder)
    compressed(driver, folder)
    no_rendezvous(driver, folder)
    if reason := hosts.run(driver, folder):
        print(f"not run: two hosts, because {reason}")
