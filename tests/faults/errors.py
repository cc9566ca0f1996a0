"""A failing disk: an error is reported, no saved data is lost, and no incomplete files remain.

Also tests the order in which a checkpoint is synced, the modes of its files, and that a folder has only one writer.
"""
import errno
import os
import re
import shutil
import signal
import stat
import subprocess

import tracing
from trainings import (CALLS_WITH_A_FILE, Trainings, check_checkpoints, check_resumes, interrupted, is_whole,
                       litter, must, spread, uninterrupted)

# System calls that change a disk. rename, unlink and mkdir have several names.
CHANGES = ["openat", "write", "pwrite64", "ftruncate", "fsync", "close", "rename", "renameat", "renameat2", "mkdir",
           "unlink", "unlinkat", "rmdir"]
# If these calls fail, incomplete files cannot be removed.
NEEDED_FOR_CLEANING = {"openat", "unlink", "unlinkat", "rmdir"}
SAVE = dict(resume=1, gate=5, stop=6)  # one save, of checkpoint-6, which removes checkpoint-2


def in_words(request):
    return f", {request['task']}" if "task" in request else ""


def trace_of_save(trainings, base, background, **request):
    out = trainings.new_folder(copy_of=base)
    result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE, background=background, **SAVE, **request)
    must(result.status == 0, f"the undisturbed save ended with {result.status}: {result.log}")
    return out, lines


def check_order(trainings, base, background):
    """Checks the order: files, their folders, manifest, staged folder, name, parent folder, and only then the removal."""
    out, lines = trace_of_save(trainings, base, background)
    done = [(name, arguments.replace(str(out) + "/", "").replace(str(out), "OUT"))
            for _, name, arguments in tracing.calls_of(lines)]
    stage = "checkpoint-6.partial"

    def places(name, pattern):
        return [i for i, (call, arguments) in enumerate(done) if call == name and re.search(pattern, arguments)]

    def file_in_stage(arguments):
        found = re.match(rf"\d+<({stage}[^>]*)>", arguments)
        return found and found.group(1)

    rename = places("rename", f'^"{stage}", "checkpoint-6"')
    must(len(rename) == 1, f"the stage is renamed {len(rename)} times")
    manifest = places("openat", rf'"{stage}/\.manifest\.json[^"]*", O_WRONLY')
    must(len(manifest) == 1, "the manifest is not written once")
    for i, (call, arguments) in enumerate(done):
        name = file_in_stage(arguments)
        if call == "write" and name and "manifest" not in name:
            must(i < manifest[0], f"{name} is written after the manifest")
            later = [j for j in places("fsync", rf"<{re.escape(name)}>") if j > i]
            must(later and later[0] < manifest[0], f"{name} is not synced before the manifest")
    entries = places("rename", rf'"{stage}/[^"]*\.tmp", "{stage}/') + places("mkdir", rf'"{stage}/[^"]*", \d+\) += 0')
    must(len(entries) >= 9, f"only {len(entries)} names appear in the stage")
    for i in entries:
        path = re.findall(r'"([^"]+)"', done[i][1])[-1]
        folder = os.path.dirname(path)
        later = [j for j in places("fsync", rf"<{re.escape(folder)}>") if j > i]
        limit = rename[0] if "manifest" in path else manifest[0]
        must(later and later[0] < limit, f"{folder} is not synced after {path} has appeared in it")
    synced = [j for j in places("fsync", rf"<{stage}/\.manifest\.json") if j > manifest[0]]
    named = places("rename", rf'"{stage}/\.manifest[^"]*", "{stage}/manifest.json"')
    stage_synced = [j for j in places("fsync", rf"<{stage}>") if named and j > named[0]]
    must(synced and named and synced[0] < named[0], "the manifest is not synced before it has its name")
    must(stage_synced and stage_synced[0] < rename[0], "the stage is not synced before it is renamed")
    parent = [j for j in places("fsync", r"<OUT>") if j > rename[0]]
    removed = (places("rename", r'"checkpoint-2"') + places("unlinkat", "checkpoint-2") +
               places("unlink", "checkpoint-2/"))
    must(parent and removed and parent[0] < min(removed), "an older checkpoint is removed before the new one is safe")
    shutil.rmtree(out)


def check_modes(trainings):
    for umask, file_mode, folder_mode in [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]:
        out = trainings.new_folder()
        trainings.run(out, umask=f"0{umask:o}")
        for path in out.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            must(mode == (folder_mode if path.is_dir() else file_mode), f"{path} has mode {mode:o}, umask {umask:o}")
        shutil.rmtree(out)


def check_one_writer(trainings, driver, base):
    out = trainings.new_folder(copy_of=base)
    first = trainings.start(out, **SAVE)
    must(tracing.wait_until_stopped(first), "the first training is not at its gate")
    with Trainings(driver) as others:
        second = others.run(out, resume=1)
    must(second.status == 1 and second.first == 0, f"a second training ran: {second}")
    must("another training writes there" in second.log, second.log)
    os.kill(first, signal.SIGCONT)
    must(trainings.finish().status == 0, "the first training was disturbed by the second")
    shutil.rmtree(out)


def failing_calls(trainings, base, background, **request):
    out, lines = trace_of_save(trainings, base, background, **request)
    shutil.rmtree(out)
    calls = tracing.numbered_calls(lines, CHANGES)
    print("calls in a save: " + ", ".join(
        f"{sum(name == call for name, _ in calls)} {call}" for call in CHANGES))
    cases = []
    for name, number in calls:
        cases += [(background, name, number, error, "") for error in ("ENOSPC", "EIO", "EACCES", "EINTR")]
        # EINTR is left out: a permanently interrupted call is a signal that does not end, not a disk error.
        cases += [(background, name, number, error, "+") for error in ("ENOSPC", "EIO", "EACCES")]
        if name.startswith("rename"):
            cases += [(background, name, number, "EXDEV", permanently) for permanently in ("", "+")]
    return cases


def check_message(out, result, error, what):
    """Checks that the error names a path in the folder and the reason."""
    message = next((line for line in result.log.splitlines() if line.startswith("error: ")), "")
    must(str(out) in message, f"{what}: the message names no path: {result.log}")
    must(os.strerror(getattr(errno, error)) in message, f"{what}: the message gives no reason: {result.log}")


def check_failing_call(trainings, base, expected, case, **request):
    background, name, number, error, permanently = case
    mode = "in the background" if background else "waiting"
    what = f"{name} number {number}{permanently} failing with {error}, {mode}{in_words(request)}"
    out = trainings.new_folder(copy_of=base)
    result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE,
                                   f"{name}:error={error}:when={number}{permanently}", background=background, **SAVE,
                                   **request)
    must(any("(INJECTED)" in line for line in lines), f"{what}: did not happen")
    check_checkpoints(out, 4, what)
    must(result.status in ((0,) if error == "EINTR" else (0, 1)), f"{what}: {result}")
    if result.status == 0:
        must(is_whole(out / "checkpoint-6"), f"{what}: nothing was said, and there is no checkpoint: {result.log}")
    else:
        check_message(out, result, error, what)
    if not permanently or name not in NEEDED_FOR_CLEANING:
        must(not litter(out), f"{what}: left behind: {litter(out)}")
    if name == "fsync" and not permanently:
        check_not_synced_again(lines, what)
    check_resumes(trainings, out, expected, what, **request)
    shutil.rmtree(out)


def check_not_synced_again(lines, what):
    synced = [(re.search(r"<([^>]*)>", arguments).group(1), "(INJECTED)" in arguments)
              for _, name, arguments in tracing.calls_of(lines) if name == "fsync"]
    failed = next((i for i, (_, is_injected) in enumerate(synced) if is_injected), None)
    if failed is None or "EINTR" in what:
        return
    path = synced[failed][0]
    must(path not in [other for other, _ in synced[failed + 1:]], f"{what}: {path} is synced again")


def check_short_writes(driver, preload, expected):
    with Trainings(driver, preload) as trainings:
        for background in (0, 1):
            out = trainings.new_folder()
            check_resumes(trainings, out, expected, "writes that are cut short and interrupted", background=background)


def check_full_disk(trainings, base, expected, most=20, **request):
    """Checks that the same process continues when there is free space again."""
    size = sum(path.stat().st_blocks * 512 for path in (base / "checkpoint-4").rglob("*"))
    page = os.sysconf("SC_PAGE_SIZE")
    disk = trainings.new_folder()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(8 * size, 1 << 20)}", "none", str(disk)],
                      capture_output=True).returncode != 0:
        print("skipped the full disk: a tmpfs cannot be mounted here")
        return
    outcomes = {"full": 0, "fits": 0}
    try:
        for free in spread(range(0, 2 * size, page), most, f"free bytes on the disk{in_words(request)}"):
            out = disk / "out"
            shutil.copytree(base, out)
            ballast = disk / "ballast"
            usage = os.statvfs(disk)
            ballast.write_bytes(bytes(max(0, usage.f_bavail * usage.f_frsize - free)))
            what = f"{free} bytes free{in_words(request)}"
            result = trainings.run(out, resume=1, stop=6, ballast=ballast, **request)
            must(result.status == 0, f"{what}: {result}")
            is_full = "error: " in result.log
            must(not is_full or "No space left on device" in result.log, f"{what}: {result.log}")
            must("second error" not in result.log and "damaged" not in result.log, f"{what}: {result.log}")
            outcomes["full" if is_full else "fits"] += 1
            check_checkpoints(out, 6, what)
            ballast.unlink(missing_ok=True)
            check_resumes(trainings, out, expected, what, **request)
            shutil.rmtree(out)
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    print(f"  {outcomes}")
    must(min(outcomes.values()) > 0, "the disk was always full, or never")


def run(trainings, arguments):
    problem = tracing.is_possible(trainings)
    expected = uninterrupted(trainings)
    base = interrupted(trainings, 4)
    check_modes(trainings)
    check_one_writer(trainings, arguments.driver, base)
    check_short_writes(arguments.driver, arguments.preload, expected)
    check_full_disk(trainings, base, expected)
    if problem:
        print("skipped what needs strace: " + problem)
        return False
    for background in (0, 1):
        check_order(trainings, base, background)
    cases = failing_calls(trainings, base, 0) + failing_calls(trainings, base, 1)
    for case in spread(cases, 200, "failing system calls"):
        check_failing_call(trainings, base, expected, case)
    return True
