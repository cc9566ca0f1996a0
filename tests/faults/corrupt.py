"""Damaged checkpoints: every damage is detected, and the newest undamaged checkpoint is used with a warning."""
import random
import shutil

from trainings import check_resumes, interrupted, must, spread, uninterrupted

SEED = 3


def files_of(checkpoint):
    return sorted(path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file())


def flip_bit(path, rng):
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data) * 8)
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    return f"bit {place} of {path.name} flipped"


def truncate(path, rng):
    data = path.read_bytes()
    size = rng.choice([len(data) - 1, rng.randrange(len(data))])
    path.write_bytes(data[:size])
    return f"{path.name} cut from {len(data)} to {size} bytes"


def remove(path, _):
    path.unlink()
    return f"{path.name} missing"


def empty(path, _):
    path.write_bytes(b"")
    return f"{path.name} empty"


def zero_tail(path, rng):
    data = path.read_bytes()
    kept = rng.randrange(len(data.rstrip(b"\0")))
    path.write_bytes(data[:kept] + bytes(len(data) - kept))
    return f"{path.name} zero from byte {kept}"


def lengthen(path, _):
    path.write_bytes(path.read_bytes() + b"\n")
    return f"{path.name} longer by a byte"


def cases(checkpoint):
    """Returns (kind of damage, file), once for each repetition."""
    rng = random.Random(SEED)
    files = files_of(checkpoint)
    sizes = [(checkpoint / name).stat().st_size for name in files]
    some = lambda count: rng.choices(files, sizes, k=count // 2) + rng.choices(files, k=count // 2)
    return ([(flip_bit, name) for name in some(1000)], [(truncate, name) for name in some(200)],
            [(kind, name) for name in files for kind in (remove, empty, zero_tail, lengthen)
             # A byte appended to the manifest does not change its content.
             if kind is not lengthen or name.name != "manifest.json"])


def run(trainings, _):
    expected = uninterrupted(trainings)
    base = interrupted(trainings, 6)
    rng = random.Random(SEED)
    flips, cuts, others = cases(base / "checkpoint-6")
    chosen = (spread(flips, 150, "bit flips") + spread(cuts, 50, "truncations") +
              spread(others, 60, "files that are missing, empty, zero at the end or too long"))
    for number, (damage, name) in enumerate(chosen):
        out = trainings.new_folder(copy_of=base)
        what = f"{damage(out / 'checkpoint-6' / name, rng)} ({name})"
        result = trainings.run(out, resume=1, stop=5)
        must(result.first == 5 and result.status == 0, f"{what}: not noticed: {result}")
        must("checkpoint-6 is damaged" in result.log, f"{what}: no warning: {result.log}")
        must(name.name == "manifest.json" or str(name) in result.log, f"{what}: not named: {result.log}")
        if number % 50 == 0:
            # The resumed training has the same result and overwrites the damaged checkpoint.
            check_resumes(trainings, out, expected, what)
        shutil.rmtree(out)

    both = [(damage, name, other) for damage in (flip_bit, truncate, remove, empty, zero_tail)
            for name in files_of(base / "checkpoint-6") for other in (flip_bit, remove)]
    for damage, name, other in spread(both, 20, "both checkpoints damaged"):
        out = trainings.new_folder(copy_of=base)
        what = f"{damage(out / 'checkpoint-6' / name, rng)} and {other(out / 'checkpoint-4' / name, rng)}"
        result = trainings.run(out, resume=1)
        must(result.status == 1 and result.first == 0, f"{what}: {result}")
        must("none of the 2 checkpoints" in result.log, f"{what}: {result.log}")
        shutil.rmtree(out)
    return True
