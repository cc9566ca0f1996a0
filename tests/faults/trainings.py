"""Trainings by faults_driver, and checks of their output folders."""
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile

STEPS, INTERVAL = 10, 2
CALLS_WITH_A_FILE = ("%file,read,pread64,write,pwrite64,writev,fsync,fdatasync,ftruncate,close,getdents64,flock")


class Failure(Exception):
    """A check that failed."""


def must(condition, message):
    if not condition:
        raise Failure(message)


@dataclasses.dataclass
class Result:
    status: int  # exit code, or minus the signal
    first: int  # step that was trained, 0: none
    last: int
    log: str


class Trainings:
    """A process that trains on request, one training at a time."""

    def __init__(self, driver, preload=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="faults-"))
        environment = dict(os.environ, OMP_NUM_THREADS="1")
        if preload:
            environment["LD_PRELOAD"] = str(preload)
        self.process = subprocess.Popen([driver], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment)
        self.log = self.folder / "log"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, out, **request):
        """Returns the id of the process that trains."""
        request |= {"out": out, "log": self.log}
        self.process.stdin.write(" ".join(f"{key}={value}" for key, value in request.items()) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline().split()[1])

    def finish(self):
        answer = self.process.stdout.readline().split()
        must(answer and answer[0] == "exit", "the driver has died")
        return Result(*map(int, answer[1:]), self.log.read_text(errors="replace"))

    def run(self, out, **request):
        self.start(out, **request)
        return self.finish()

    def new_folder(self, copy_of=None):
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        if copy_of:
            shutil.copytree(copy_of, folder, dirs_exist_ok=True)
        return folder


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(out):
    """Hashes the result of a training: weights, EMA, optimizer and state of the last checkpoint, the models, and the configs."""
    last = out / f"checkpoint-{STEPS}"
    folders = [last] + [path for path in out.iterdir() if path.is_dir() and not path.name.startswith("checkpoint-")]
    files = [path for folder in folders for path in folder.rglob("*")] + list(out.glob("*.safetensors"))
    files = sorted(path for path in files if path.suffix == ".safetensors" or path.name.endswith("config.json"))
    for name in ("optimizer.safetensors", "trainer_state.safetensors"):
        must(last / name in files, f"{last / name} is missing")
    return {str(path.relative_to(out)): sha256(path) for path in files}


def losses(out):
    return [line.split(",")[:3] for line in (out / "metrics.csv").read_text().splitlines()]


def is_whole(checkpoint):
    """Returns true if all files match the manifest, which this script reads independently of the library."""
    try:
        text = (checkpoint / "manifest.json").read_text()
        entries = json.loads(text)["files"].items()
        # Textual inversion has a single model file and no average.
        least = 4 if (checkpoint / "textual_inversion").exists() else 7
        return text.endswith("}\n") and len(entries) >= least and all(
            (checkpoint / name).stat().st_size == entry["size"] and sha256(checkpoint / name) == entry["sha256"]
            for name, entry in entries)
    except (OSError, ValueError, KeyError):
        return False


def checkpoints(out):
    """Returns the steps of all checkpoints."""
    return sorted(int(path.name.split("-")[1]) for path in out.glob("checkpoint-*") if path.name[11:].isdigit())


def litter(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*")
                  if path.name.endswith((".partial", ".removed", ".tmp")))


def newest_whole(out):
    return max((step for step in checkpoints(out) if is_whole(out / f"checkpoint-{step}")), default=0)


def check_checkpoints(out, at_least, what):
    """Checks that all checkpoints are complete, and that the newest is of step `at_least` or later. Returns its step."""
    steps = checkpoints(out)
    for step in steps:
        must(is_whole(out / f"checkpoint-{step}"), f"{what}: checkpoint-{step} is damaged")
    newest = steps[-1] if steps else 0
    must(newest >= at_least, f"{what}: the newest checkpoint is of step {newest}, expected {at_least} or later")
    return newest


def check_resumes(trainings, out, expected, what, **request):
    """Checks that the training resumes from the newest complete checkpoint and has the same result as without a failure."""
    newest = newest_whole(out)
    result = trainings.run(out, resume=1, **request)
    must(result.status == 0, f"{what}: the resumed training ended with {result.status}: {result.log}")
    must(result.first in (newest + 1, 0 if newest == STEPS else 1),
         f"{what}: resumed at step {result.first}, the newest checkpoint is of step {newest}")
    must(digests(out) == expected["digests"], f"{what}: the resumed training ended with other weights or states")
    must(losses(out) == expected["losses"], f"{what}: the resumed training logged other losses")
    must(not litter(out), f"{what}: left behind: {litter(out)}")


def uninterrupted(trainings, **request):
    """Returns the result of an undisturbed training."""
    out = trainings.new_folder()
    result = trainings.run(out, **request)
    must(result.status == 0, f"the uninterrupted training ended with {result.status}: {result.log}")
    must(not result.log, f"the uninterrupted training said: {result.log}")
    check_checkpoints(out, STEPS, "the uninterrupted training")
    expected = {"digests": digests(out), "losses": losses(out)}
    for name, digest in expected["digests"].items():
        print(f"  {digest}  {name}")
    shutil.rmtree(out)
    return expected


def interrupted(trainings, step, **request):
    """Makes a folder whose training was stopped after a step."""
    out = trainings.new_folder()
    result = trainings.run(out, stop=step, **request)
    must(result.status == 0 and checkpoints(out)[-1] == step, f"no checkpoint of step {step}: {result.log}")
    return out


def spread(items, most, what):
    """Returns all items with DIFFUSERS_FAULTS=all, otherwise `most` of them, evenly spaced."""
    items = list(items)
    chosen = items
    if os.environ.get("DIFFUSERS_FAULTS") != "all" and len(items) > most:
        chosen = [items[i * len(items) // most] for i in range(most)]
    print(f"{what}: {len(chosen)} of {len(items)}", flush=True)
    return chosen
