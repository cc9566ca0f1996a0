"""SIGKILL at every system call of a save, at random moments and in the middle of a step; other signals.

In all cases every checkpoint is complete and at most one interval is lost. The resumed training ends with the weights, EMA
weights, moments and states of an uninterrupted training, bit for bit. If a checkpoint is written in the background, the
training may have continued for another interval, at whose end it waits.
"""
import random
import shutil
import signal
import time

from trainings import (CALLS_WITH_A_FILE, INTERVAL, STEPS, Failure, check_checkpoints, check_resumes, digests,
                       interrupted, must, spread, uninterrupted)
import tracing


def check_killed(trainings, out, result, what, expected, before=0, background=1, **request):
    most_lost = INTERVAL * (2 if background else 1)
    check_checkpoints(out, max(before, result.last - most_lost), what)
    check_resumes(trainings, out, expected, what, **request)
    shutil.rmtree(out)


def at_every_call(trainings, expected):
    base = interrupted(trainings, 4)
    for what, most, request in [
            ("SIGKILL at a system call of a save in the background", 40, dict(background=1, gate=5, stop=6)),
            ("SIGKILL at a system call of a save", 40, dict(background=0, gate=5, stop=6)),
            ("SIGKILL at a system call of a resumed training", 40, dict(background=0, gate=0))]:
        out = trainings.new_folder(copy_of=base)
        result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE, resume=1, **request)
        must(result.status == 0, f"{what}: the undisturbed run ended with {result.status}: {result.log}")
        shutil.rmtree(out)
        calls = tracing.numbered_calls(lines)
        must(len(calls) > 100, f"{what}: only {len(calls)} calls were seen")
        for name, number in spread(calls, most, what):
            out = trainings.new_folder(copy_of=base)
            result, _ = tracing.traced(trainings, out, CALLS_WITH_A_FILE, f"{name}:signal=KILL:when={number}", resume=1,
                                       **request)
            must(result.status == -signal.SIGKILL, f"{what} {number} did not kill: {result}")
            check_killed(trainings, out, result, f"{what}, {name} number {number}", expected, before=4,
                         background=request["background"])


def variants(rng):
    return dict(workers=rng.choice([0, 1, 2]), background=rng.choice([0, 1]), previews=rng.choice([0, 1, 3]),
                logs=rng.choice([0, 1]))


def run_time(trainings, accumulate):
    out = trainings.new_folder()
    start = time.monotonic()
    trainings.run(out, accumulate=accumulate, previews=1)
    shutil.rmtree(out)
    return time.monotonic() - start


def at_random_moments(trainings, expected):
    rng = random.Random(1)
    seconds = {accumulate: run_time(trainings, accumulate) for accumulate in expected}
    killed, newest_killed = 0, set()
    for number in spread(range(1000), 60, "SIGKILL at a random moment"):
        accumulate = rng.choice(list(expected))
        request = dict(accumulate=accumulate, **variants(rng))
        delay = rng.uniform(0, seconds[accumulate])
        what = f"SIGKILL number {number} after {delay:.4f} s of {request}"
        out = trainings.new_folder()
        result = trainings.run(out, resume=1, signal=9, signal_us=int(delay * 1e6), **request)
        must(result.status in (0, -9), f"{what}: {result}")
        killed += result.status == -9
        newest_killed.add(result.last)
        check_killed(trainings, out, result, what, expected[accumulate], **request)
    print(f"  {killed} were killed before their end, at steps {sorted(newest_killed)}")
    must(len(newest_killed) > 3, "the kills fell on too few steps")


def in_the_middle_of_a_step(trainings, expected):
    """Kills while a batch is fetched: of several per step, in every epoch, by the training or a worker."""
    cases = [(accumulate, workers, batch) for accumulate in expected for workers in (0, 1, 2)
             for batch in range(1, 21)]
    for accumulate, workers, batch in spread(cases, 24, "SIGKILL while a batch is fetched"):
        what = f"SIGKILL at batch {batch}, {accumulate} a step, {workers} workers"
        out = trainings.new_folder()
        request = dict(accumulate=accumulate, workers=workers)
        result = trainings.run(out, resume=1, deadly_batch=batch, **request)
        must(result.status == -9, f"{what}: {result}")
        check_killed(trainings, out, result, what, expected[accumulate], **request)


def is_published(out, expected):
    try:
        return digests(out) == expected["digests"]
    except Failure:
        return False


def by_signals(trainings, expected):
    """Checks that the training saves and exits with 128 + n, and that the same signal again ends it immediately."""
    rng = random.Random(2)
    seconds = run_time(trainings, 2)
    statuses = {}
    for number in spread(range(100), 30, "SIGINT, SIGTERM or SIGUSR1 at a random moment"):
        which = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
        delay = rng.uniform(0, seconds)
        request = variants(rng)
        is_impatient = number % 4 == 0
        again = dict(second_signal=int(which), second_signal_us=rng.randrange(3000)) if is_impatient else {}
        what = f"{which.name}{' twice' if is_impatient else ''} after {delay:.4f} s of {request}"
        out = trainings.new_folder()
        result = trainings.run(out, resume=1, handle_signals=1, signal=int(which), signal_us=int(delay * 1e6), **again,
                               **request)
        # Minus the signal if the training had not started or had published its result, or after the second signal.
        is_outside = result.last == 0 or (result.last == STEPS and is_published(out, expected[2]))
        allowed = {0, 128 + which} | ({-which} if is_impatient or is_outside else set())
        must(result.status in allowed, f"{what}: {result}")
        statuses[result.status] = statuses.get(result.status, 0) + 1
        if result.status == 128 + which:
            check_checkpoints(out, result.last, what)
        check_killed(trainings, out, result, what, expected[2], **request)
    print(f"  exits: {dict(sorted(statuses.items()))}")
    must(any(status > 128 for status in statuses), "no signal fell into the training")


def run(trainings, _):
    problem = tracing.is_possible(trainings)
    expected = {accumulate: uninterrupted(trainings, accumulate=accumulate) for accumulate in (2, 4)}
    in_the_middle_of_a_step(trainings, expected)
    at_random_moments(trainings, expected)
    by_signals(trainings, expected)
    if problem:
        print("skipped the kills at system calls: " + problem)
        return False
    at_every_call(trainings, expected[2])
    return True
