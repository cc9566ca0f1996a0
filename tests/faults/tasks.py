"""SIGKILL in trainings of two updates, of several models, and with a latent cache on the disk.

The tasks are an autoencoder with its discriminator, latent diffusion, text to image with its text encoder, LoRA adapters of
both, a ControlNet, a T2I-adapter, textual inversion, instruct-pix2pix, and DreamBooth with class images. They are killed in
the middle of a step (the autoencoder also between its two updates) and at system calls of a save. Latent diffusion is also
killed while it writes its latent cache. All but textual inversion have EMA weights. Each resumed training ends with the files
of an uninterrupted one, bit for bit.
"""
import shutil
import signal

from errors import CHANGES
from kill import check_killed
from trainings import CALLS_WITH_A_FILE, check_resumes, interrupted, must, sha256, spread, uninterrupted
import tracing

# The calls of Task::loss in a training. The autoencoder's discriminator is updated from the fourth step on.
BUILD_CACHE = dict(resume=1, stop=1, cache_gate=1)
LOSSES = {"autoencoder": 17, "latent_diffusion": 10, "text_to_image": 10, "lora": 10, "controlnet": 10,
          "t2i_adapter": 10, "textual_inversion": 10, "instruct_pix2pix": 10, "dreambooth": 10}


def in_the_middle_of_a_step(trainings, expected, request):
    task = request["task"]
    for number in spread(range(2, LOSSES[task] + 1), 3, f"{task}: SIGKILL in the middle of a step"):
        what = f"{task}: SIGKILL before loss {number}"
        out = trainings.new_folder()
        result = trainings.run(out, resume=1, deadly_loss=number, **request)
        must(result.status == -signal.SIGKILL, f"{what}: {result}")
        check_killed(trainings, out, result, what, expected, **request)


def killed_at(trainings, base, name, number, what, **request):
    """Trains in a copy of a folder, with SIGKILL at a system call. Returns the folder and the result."""
    out = trainings.new_folder(copy_of=base)
    result, _ = tracing.traced(trainings, out, CALLS_WITH_A_FILE, f"{name}:signal=KILL:when={number}", **request)
    must(result.status == -signal.SIGKILL, f"{what} did not kill: {result}")
    return out, result


def at_calls_of_a_save(trainings, expected, request):
    base = interrupted(trainings, 4, **request)
    for background in (0, 1):
        save = dict(resume=1, gate=5, stop=6, background=background)
        out = trainings.new_folder(copy_of=base)
        result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE, **save, **request)
        must(result.status == 0, f"the undisturbed save ended with {result.status}: {result.log}")
        shutil.rmtree(out)
        what = f"{request['task']}: SIGKILL at a system call of a save{' in the background' if background else ''}"
        for name, number in spread(tracing.numbered_calls(lines), 3, what):
            out, result = killed_at(trainings, base, name, number, f"{what}, {name} {number}", **save, **request)
            check_killed(trainings, out, result, f"{what}, {name} {number}", expected, before=4, background=background,
                         **request)


def cache_files(out):
    return {path.name: sha256(path) for path in (out / "latents").glob("*.safetensors")}


def whole_cache(expected):
    """Returns the files of the latent cache of an uninterrupted training."""
    whole = {path.removeprefix("latents/"): digest for path, digest in expected["digests"].items()
             if path.startswith("latents/")}
    must(len(whole) == 5, f"the latent cache has the files {sorted(whole)}")
    return whole


def calls_of_the_latent_cache(trainings, base, whole, request):
    """Returns the calls that change the disk while the cache is built, see tracing.numbered_calls."""
    out = trainings.new_folder(copy_of=base)
    result, lines = tracing.traced(trainings, out, CALLS_WITH_A_FILE, **BUILD_CACHE, **request)
    must(result.status == 0, f"the undisturbed cache ended with {result.status}: {result.log}")
    must(cache_files(out) == whole, "the latent cache has other content")
    shutil.rmtree(out)
    end = max(i for i, line in enumerate(lines) if f"{out}/latents" in line)
    return tracing.numbered_calls(lines[:end + 1], CHANGES)


def cache_of_another_autoencoder(trainings, request):
    """Makes a folder that contains only a latent cache, which must be written anew."""
    out = trainings.new_folder()
    result = trainings.run(out, other_vae=1, stop=1, **request)
    must(result.status == 0, f"the training with another autoencoder ended with {result.status}: {result.log}")
    for path in out.iterdir():
        if path.name != "latents":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return out


def at_calls_of_the_latent_cache(trainings, expected, request):
    whole = whole_cache(expected)
    other = cache_of_another_autoencoder(trainings, request)
    outdated = cache_files(other)
    must(outdated.keys() == whole.keys() and not set(outdated.values()) & set(whole.values()),
         "the caches of the two autoencoders are equal")
    for base, what in [(None, "SIGKILL at a system call of a new latent cache"),
                       (other, "SIGKILL at a system call of an outdated latent cache")]:
        for name, number in spread(calls_of_the_latent_cache(trainings, base, whole, request), 6, what):
            at = f"{what}, {name} {number}"
            out, _ = killed_at(trainings, base, name, number, at, **BUILD_CACHE, **request)
            for file, digest in cache_files(out).items():
                must(digest in (whole[file], outdated[file] if base else None), f"{at}: {file} is incomplete")
            check_resumes(trainings, out, expected, at, **request)
            shutil.rmtree(out)


def run(trainings, _):
    problem = tracing.is_possible(trainings)
    for task in LOSSES:
        # One batch a step.
        request = dict(task=task, accumulate=1)
        expected = uninterrupted(trainings, **request)
        in_the_middle_of_a_step(trainings, expected, request)
        if problem:
            continue
        at_calls_of_a_save(trainings, expected, request)
        if task == "latent_diffusion":
            at_calls_of_the_latent_cache(trainings, expected, request)
    if problem:
        print("skipped the kills at system calls: " + problem)
    return not problem
