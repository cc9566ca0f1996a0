"""A power cut before every call of a training that makes data durable on the disk.

Written data is certainly on the disk only after fsync, and a name only after an fsync of its folder. The calls of a training
are replayed on a disk that loses the rest, in four ways. In all cases a published checkpoint is complete, and the training
resumes from the newest one, bit for bit.
"""
import re
import shutil

import tracing
from disk import Disk, finished_calls
from trainings import CALLS_WITH_A_FILE, check_resumes, interrupted, must, newest_whole, spread, uninterrupted

DAMAGES = ["all lost", "names lost", "tail zero", "tail cut"]
SEEDS = 10
BASE_STEP = 4  # step of the checkpoint from which the training resumes
POINTS = ("fsync", "fdatasync", "rename", "renameat", "renameat2")


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in folder.rglob("*")}


class Replay:
    """The calls of a training, and a disk in the state before the first call."""

    def __init__(self, trainings, base, background):
        self.base = base
        self.out = trainings.new_folder(copy_of=base)
        result, lines = tracing.traced(trainings, self.out, CALLS_WITH_A_FILE, whole_strings=True, resume=1, gate=0,
                                       background=background)
        must(result.status == 0, f"the undisturbed training ended with {result.status}: {result.log}")
        self.calls = list(finished_calls(lines))
        disk = self.disk()
        for call in self.calls:
            disk.play(*call)
        folder = trainings.new_folder()
        disk.write_to(folder)
        played, left = contents(folder), contents(self.out)
        wrong = [name for name in played.keys() | left.keys() if played.get(name, 0) != left.get(name, 0)]
        must(not wrong, f"the trace does not end with what the training left: {wrong}")

    def disk(self):
        return Disk(self.base, self.out)

    def points(self):
        """Returns the numbers of the calls before which the power is cut."""
        return [i for i, (name, arguments, _) in enumerate(self.calls)
                if name in POINTS and str(self.out) in arguments] + [len(self.calls)]

    def published_step(self, number_of_calls):
        """Returns the step of the newest checkpoint that has its final name, and whose name is synced."""
        renamed, published = 0, BASE_STEP
        for name, arguments, _ in self.calls[:number_of_calls]:
            if name == "rename" and (match := re.search(r'/checkpoint-(\d+)"$', arguments)):
                renamed = int(match[1])
            elif name == "fsync" and f"<{self.out}>" in arguments:
                published = max(published, renamed)
        return published


def run(trainings, _):
    problem = tracing.is_possible(trainings)
    if problem:
        print("skipped: " + problem)
        return False
    expected = uninterrupted(trainings)
    base = interrupted(trainings, BASE_STEP)
    replays = [Replay(trainings, base, background) for background in (0, 1)]
    cases = [(replay, point, damage, seed) for replay in replays for point in replay.points() for damage in DAMAGES
             for seed in range(1 if damage == "all lost" else SEEDS)]
    replay, disk, played = None, None, 0
    for number, (of, point, damage, seed) in enumerate(spread(cases, 1500, "power cuts")):
        if of is not replay:
            replay, disk, played = of, of.disk(), 0
        for call in replay.calls[played:point]:
            disk.play(*call)
        played = point
        what = f"power cut before call {point}, {damage}, seed {seed}"
        out = trainings.new_folder()
        disk.write_to(out, damage, seed)
        published, newest = replay.published_step(point), newest_whole(out)
        must(newest >= published, f"{what}: checkpoint-{published} was published, the newest whole one is {newest}")
        if number % 20 == 0:
            check_resumes(trainings, out, expected, what)
        shutil.rmtree(out)
    return True
