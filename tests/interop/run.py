#!/usr/bin/env python3
"""Tests against Python diffusers.

    run.py --environment DIR [--torch-site DIR] environment          makes the environment
    run.py --environment DIR goldens [--only TOPIC]                  remakes and compares the golden tensors
    run.py --environment DIR comparison                              tests that this comparison reports differences
    run.py --environment DIR exchange --program interop_exchange     Python opens what C++ saved, and the reverse
    run.py --environment DIR models --program interop_models         the same for a Stable Diffusion pipeline and others
    run.py --environment DIR pipelines --program interop_pipelines   the same for inpainting, ControlNet and SDXL pipelines
    run.py --environment DIR lora --program interop_lora             the same for LoRA files
    run.py --environment DIR full-size --program interop_full_size   the same for Stable Diffusion 1.5 at its size
    run.py --environment DIR text --program interop_text             the same for tokenizers with CLIP's vocabulary
    run.py --environment DIR observability --program interop_observability
                                                                     TensorBoard and a browser read a training's files
    run.py --environment DIR training --program train_text_to_image  Python opens what the training programs saved
    run.py --environment DIR benchmark --program stable_diffusion_step
                                                                     the benchmark of both, with tiny models
    run.py --environment DIR mutations --program interop_verdicts    both accept and refuse the same damaged files

If the environment is missing and cannot be made, for example without network or pip, the test is reported as skipped
(tests/support/skips.py).
"""
import argparse
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
PACKAGES = ["diffusers==0.42.1", "transformers>=5,<6", "peft==0.21.2", "accelerate", "safetensors", "tensorboard", "scipy",
            "torchsde", "pillow"]
TORCH = "torch==2.11.0"
sys.path.insert(0, str(TESTS / "support"))
import skips

# Imports everything that the scripts need, to distinguish a complete environment from an incomplete one.
PROBE = ("import diffusers, transformers, peft, accelerate, safetensors, scipy, torchsde, PIL, tensorboard, torch; "
         "assert diffusers.__version__ == '0.42.1' and peft.__version__ == '0.21.2'")


def python_of(environment):
    return environment / "bin" / "python"


def make_environment(environment, torch_site):
    """Makes the environment if it does not exist. A marker that is written last shows that it is complete, and holds the
    packages: an environment that was made with others gets those that it lacks."""
    complete, started = environment / ".complete", environment / ".started"
    packages = " ".join(PACKAGES)
    environment.parent.mkdir(parents=True, exist_ok=True)
    with open(environment.parent / (environment.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if complete.exists() and complete.read_text() == packages:
            return True
        if started.exists():
            print(f"removing an environment whose installation was interrupted: {environment}", flush=True)
            shutil.rmtree(environment)
        if python_of(environment).exists() and subprocess.run([python_of(environment), "-c", PROBE]).returncode == 0:
            complete.write_text(packages)
            return True
        # LibTorch is part of the Python package torch. An existing package is not fetched again.
        borrowed = torch_site if torch_site and (torch_site / "torch" / "version.py").exists() else None
        base = borrowed.parents[2] / "bin" / "python" if borrowed else None
        base = str(base) if base and base.exists() else sys.executable
        environment.mkdir(exist_ok=True)
        exists = complete.exists()
        if not exists:
            started.touch()
        if not exists and subprocess.run([base, "-m", "venv", str(environment)]).returncode != 0:
            print("python3 -m venv failed (Debian: apt-get install python3-venv)")
            return False
        if borrowed:
            site = next((environment / "lib").glob("python3*")) / "site-packages"
            (site / "libdiffusers_torch.pth").write_text(f"{borrowed}\n")
        print(f"installing {packages} into {environment}", flush=True)
        command = [python_of(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES]
        if subprocess.run([*command, *([] if borrowed else [TORCH])]).returncode != 0:
            print("pip could not install them")
            return False
        complete.write_text(packages)
        started.unlink(missing_ok=True)
        return True


# Selects the kernels with which the golden tensors were made, so a CPU with wider vectors rounds equally.
KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
           "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"}


def run_python(environment, script, *arguments):
    variables = {**os.environ, **KERNELS, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1",
                 "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run([python_of(environment), str(script), *map(str, arguments)], env=variables).returncode


def goldens(environment, only):
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for script in sorted((TESTS / "reference").glob("*.py")):
            # A script without --out is a module that other scripts import.
            if (only and only != script.stem) or "--out" not in script.read_text():
                continue
            print(f"remaking {script.name}", flush=True)
            if run_python(environment, script, "--out", folder) != 0:
                failed.append(script.name)
        arguments = ["--partial"] if only else []
        if run_python(environment, HERE / "compare_goldens.py", TESTS / "golden", folder, *arguments) != 0:
            failed.append("compare_goldens.py")
    print("failed: " + ", ".join(failed) if failed else "the golden tensors are what Python gives")
    return 1 if failed else 0


def exchange(environment, program, script, title_of_save):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        steps = [
            (title_of_save, [program, "save", folder / "cpp"]),
            ("Python opens what C++ saved", [python_of(environment), HERE / script, "check", folder / "cpp"]),
            ("Python saves", [python_of(environment), HERE / script, "save", folder / "python"]),
            ("C++ opens what Python saved", [program, "check", folder / "python"]),
        ]
        for title, command in steps:
            print(title, flush=True)
            if subprocess.run([str(word) for word in command]).returncode != 0:
                print(f"failed: {title}")
                return 1
    return 0


# The models of Stable Diffusion 1.5 and their numbers of parameters.
FULL_SIZE = {"text_encoder": 123_060_480, "vae": 83_653_863, "unet": 859_520_964}


def full_size(environment, program):
    if os.environ.get("DIFFUSERS_TEST_FULL_SIZE") != "1":
        return skips.skip("interop.full_size",
                          "writes 7 GB and needs 8 GB of memory. Set DIFFUSERS_TEST_FULL_SIZE=1 to run it")
    script = HERE / "full_size.py"
    for name, count in FULL_SIZE.items():
        # One after the other, since the largest is on disk twice and takes 7 GB.
        with tempfile.TemporaryDirectory() as folder:
            steps = [
                ("Python saves", lambda: run_python(environment, script, "save", name, folder, count)),
                ("C++ opens and saves", lambda: subprocess.run([program, name, folder, str(count)]).returncode),
                ("Python opens what C++ saved", lambda: run_python(environment, script, "check", name, folder, count)),
            ]
            for title, step in steps:
                start = time.monotonic()
                if step() != 0:
                    print(f"failed: {name}: {title}")
                    return 1
                print(f"{name}: {title}: {time.monotonic() - start:.1f} s", flush=True)
    return 0


def text(environment, program):
    vocabulary = environment.parent / "clip-vocabulary"
    if not (vocabulary / ".complete").exists():
        failed = subprocess.run([sys.executable, HERE / "clip_vocabulary.py", "download", vocabulary]).returncode
        if failed:
            return failed
        (vocabulary / ".complete").touch()
    script = HERE / "text.py"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        steps = [
            ("Both tokenize", lambda: run_python(environment, script, "ids", vocabulary, program)),
            ("C++ saves", lambda: subprocess.run([program, "save", folder / "cpp", vocabulary]).returncode),
            ("Python opens what C++ saved", lambda: run_python(environment, script, "check", folder / "cpp")),
            ("Python saves", lambda: run_python(environment, script, "save", folder / "python", vocabulary)),
            ("C++ opens what Python saved", lambda: subprocess.run([program, "check", folder / "python"]).returncode),
        ]
        for title, step in steps:
            print(title, flush=True)
            if step() != 0:
                print(f"failed: {title}")
                return 1
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=pathlib.Path, required=True)
    parser.add_argument("--torch-site", type=pathlib.Path, help="site-packages that holds torch")
    parser.add_argument("action",
                        choices=["benchmark", "benchmark-compare", "environment", "goldens", "comparison", "exchange",
                                 "full-size", "lora", "lpips", "models", "mutations", "noto-emoji", "observability", "pipelines", "text",
                                 "training"])
    parser.add_argument("--only", help="goldens: one script, without .py")
    parser.add_argument("--program", type=pathlib.Path, help="the C++ side of all but environment and goldens")
    arguments = parser.parse_args()
    if not make_environment(arguments.environment, arguments.torch_site):
        name = "interop." + arguments.action.replace("-", "_")
        return skips.skip(name, f"there is no Python diffusers 0.42.1 in {arguments.environment}, and it could not be "
                          "installed. With network, run `ctest -L interop` again", tool_is_missing=True)
    if arguments.action == "goldens":
        return goldens(arguments.environment, arguments.only)
    if arguments.action == "comparison":
        return run_python(arguments.environment, HERE / "compare_goldens_test.py")
    if arguments.action == "lpips":
        return run_python(arguments.environment, HERE / "convert_lpips_test.py")
    if arguments.action == "noto-emoji":
        return run_python(arguments.environment, HERE / "noto_emoji_test.py")
    if arguments.action == "exchange":
        return exchange(arguments.environment, arguments.program, "exchange.py", "C++ trains and saves")
    if arguments.action == "models":
        return exchange(arguments.environment, arguments.program, "models.py", "C++ saves")
    if arguments.action == "pipelines":
        return exchange(arguments.environment, arguments.program, "pipelines.py", "C++ saves")
    if arguments.action == "lora":
        return exchange(arguments.environment, arguments.program, "lora.py", "C++ saves")
    if arguments.action == "full-size":
        return full_size(arguments.environment, arguments.program)
    if arguments.action == "text":
        return text(arguments.environment, arguments.program)
    if arguments.action == "benchmark":
        test = TESTS / "benchmarks" / "stable_diffusion_step_test.py"
        return run_python(arguments.environment, test, arguments.program, "--with_python", "Driver")
    if arguments.action == "benchmark-compare":
        test = TESTS / "benchmarks" / "compare_test.py"
        return run_python(arguments.environment, test, arguments.program, "--with_python", "Driver")
    if arguments.action in ("mutations", "observability", "training"):
        return run_python(arguments.environment, HERE / f"{arguments.action}.py", "--program", arguments.program)
    print(f"Python diffusers 0.42.1: {arguments.environment}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
