"""A failing disk in the trainings of tasks.py: an error is reported, no saved data is lost, and no incomplete files remain.

System calls of a save fail, and the disk is full. In latent diffusion, system calls of the latent cache fail, too.
"""
import shutil

from errors import NEEDED_FOR_CLEANING, check_failing_call, check_full_disk, check_message, failing_calls
from tasks import BUILD_CACHE, LOSSES, cache_files, calls_of_the_latent_cache, whole_cache
from trainings import CALLS_WITH_A_FILE, check_resumes, interrupted, litter, must, spread, uninterrupted
import tracing

ERRORS = ("ENOSPC", "EIO")


def check_save(trainings, base, expected, request):
    cases = [case for background in (0, 1) for case in failing_calls(trainings, base, background, **request)
             if case[3] in ERRORS]
    for case in spread(cases, 7, f"failing system calls of a save, {request['task']}"):
        check_failing_call(trainings, base, expected, case, **request)


def check_latent_cache(trainings, expected, request):
    whole = whole_cache(expected)
    calls = calls_of_the_latent_cache(trainings, None, whole, request)
    cases = [(name, number, error, permanently) for name, number in calls for error in ERRORS for permanently in ("", "+")]
    reported = 0
    for name, number, error, permanently in spread(cases, 7, "failing system calls of a latent cache"):
        what = f"{name} number {number}{permanently} of the latent cache failing with {error}"
        out = trainings.new_folder()
        result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE,
                                       f"{name}:error={error}:when={number}{permanently}", **BUILD_CACHE, **request)
        must(any("(INJECTED)" in line for line in lines), f"{what}: did not happen")
        must(result.status in (0, 1), f"{what}: {result}")
        reported += result.status
        if result.status == 1:
            check_message(out, result, error, what)
        else:
            must(cache_files(out) == whole, f"{what}: nothing was said, and the cache is incomplete: {result.log}")
        for file, digest in cache_files(out).items():
            must(digest == whole.get(file), f"{what}: {file} is incomplete")
        if not permanently or name not in NEEDED_FOR_CLEANING:
            must(not litter(out), f"{what}: left behind: {litter(out)}")
        check_resumes(trainings, out, expected, what, **request)
        shutil.rmtree(out)
    must(reported > 0, "no failing call of the latent cache was reported")


def run(trainings, _):
    problem = tracing.is_possible(trainings)
    for task in LOSSES:
        # One batch a step.
        request = dict(task=task, accumulate=1)
        expected = uninterrupted(trainings, **request)
        base = interrupted(trainings, 4, **request)
        check_full_disk(trainings, base, expected, most=3, **request)
        if problem:
            continue
        check_save(trainings, base, expected, request)
        if task == "latent_diffusion":
            check_latent_cache(trainings, expected, request)
    if problem:
        print("skipped what needs strace: " + problem)
    return not problem
