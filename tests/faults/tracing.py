"""Traces and disturbs the system calls of a training with strace."""
import collections
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time


def is_possible(trainings):
    """Checks that strace exists and is permitted to trace. If not, returns the reason."""
    if shutil.which("strace") is None:
        return "strace is missing (Debian: apt-get install strace)"
    probe = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
    if probe.returncode != 0:
        return "strace may not trace here: " + probe.stderr.strip()
    out = trainings.new_folder()
    try:
        traced(trainings, out, "close", gate=0, steps=1)
    except PermissionError as error:
        return str(error)
    return None


def wait_until_stopped(pid):
    while True:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        if state in "TZX":
            return state == "T"
        time.sleep(0.0005)


def traced(trainings, out, calls, inject=None, whole_strings=False, **request):
    """Trains, and traces and disturbs the calls after the gate. Returns the result and the lines of the trace.

    inject: an option of strace, such as "fsync:signal=KILL:when=3"; see numbered_calls.
    """
    pid = trainings.start(out, **request)
    trace = trainings.folder / "trace"
    tracer = None
    if wait_until_stopped(pid):
        command = ["strace", "-f", "-y", "-s", "100000000" if whole_strings else "0", "-o", trace, "-e", f"trace={calls}", "-e", "signal=none"]
        if inject:
            command += ["-e", f"inject={inject}"]
        tracer = subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        attached = tracer.stderr.readline()
        os.kill(pid, signal.SIGCONT)
        if "attached" not in attached:
            tracer.wait()
            trainings.finish()
            raise PermissionError("strace may not attach here: " + attached.strip())
    result = trainings.finish()
    if tracer:
        tracer.communicate()
    return result, trace.read_text(errors="replace").splitlines() if tracer else []


CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)$")


def calls_of(lines):
    """Returns (thread, name, arguments and result) of each call, in the order in which they begin."""
    matches = (CALL.match(line) for line in lines)
    return [match.groups() for match in matches if match]


def numbered_calls(lines, names=None):
    """Returns (name, number) of each call, counted by thread and name as in strace's inject=NAME:when=NUMBER."""
    counts = collections.Counter()
    numbered = {}
    for thread, name, _ in calls_of(lines):
        if names is None or name in names:
            counts[thread, name] += 1
            numbered[name, counts[thread, name]] = None
    return list(numbered)
