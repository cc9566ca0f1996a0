#!/usr/bin/env python3
"""Checks the includes of the library.

- A folder of include/diffusers and src includes only folders of a lower rank, and itself. The same holds for the sub-folders of
  src/training and src/models; a public header belongs to the sub-folder of the source of the same name.
- A header that defines a base class does not include the header of a class that is derived from it.
- Light public headers reach nothing of LibTorch but tensors and generators, directly or through other headers.
- Public headers reach neither JSON nor fmt, and nothing of src/.
- Private headers, those of src/, declare nothing outside of the namespace diffusers::internal, which a shared library hides.
- The files of a model folder are opened by src/io/model_file.cpp, which follows no link out of the folder. A table here lists
  the sources that open other files by their paths, and the kind of these files.
- include/diffusers/diffusers.h includes every public header; `check_layers.py --write` makes it so.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
INCLUDE = ROOT / "include"
SRC = ROOT / "src"
UMBRELLA = "diffusers/diffusers.h"

RANK = {
    "core": 0,
    "io": 1, "ops": 1,
    "schedulers": 2, "models": 2, "data": 2,
    "text": 3,
    "training": 4, "pipelines": 4,
}
# The order inside folders. "" means the files outside sub-folders: the training config contains the options of its parts, and
# the base class of the models belongs to the layers.
INNER_RANK = {
    "training": {"objective": 0, "optim": 0, "averaging": 0, "distributed": 0, "": 1, "tasks": 2, "checkpoint": 3, "observe": 3, "loop": 4},
    "models": {"layers": 0, "unet": 1, "vae": 2, "control": 3, "registry": 4},
}
ROOT_OF = {"training": "", "models": "layers"}
# Public headers without a source of the same name, and their sub-folders.
HEADER_ONLY = {
    "models/denoiser": "layers",
    "models/fwd": "layers",
    "models/unet_enums": "layers",
    "training/diffusion_task_options": "tasks",
    "training/grad_scaler": "optim",
    "training/gradient_clipping": "optim",
    "training/loss_options": "objective",
    "training/task": "tasks",
    "training/trainable_denoiser": "tasks",
}
# (file, include): includes against the order inside a folder, with the reason.
INNER_EXCEPTIONS = {
}
LIGHT_FOLDERS = {"core", "io", "schedulers", "data", "pipelines"}
# Headers of LibTorch that a light header may include.
LIGHT_TORCH = re.compile(r"^(ATen/core/(Tensor|TensorBody|Generator|ScalarType|Scalar|grad_mode)\.h|c10/.*)$")
TORCH = re.compile(r"^(torch|ATen|c10|caffe2)/")
PRIVATE = re.compile(r"^(nlohmann|fmt)/|^(png|zlib|jpeglib|archive|archive_entry)\.h$")
OPENS = re.compile(r"\b(read_text_file|load_safetensors|open_retrying|fopen|freopen|mmap)\(|"
                   r"\b(InputFile|SafetensorsFile|i?fstream)( \w+)?[({](?!\s*open_model_file)|::open(at)?(64)?\(")
OPENED_BY_PATH = {
    "src/io/files.cpp": "the functions that open",
    "src/io/open_model_file.cpp": "the function that opens the files of a model folder",
    "src/io/folder_lock.cpp": "the folder that is locked",
    "src/io/memory_line.cpp": "the files in which Linux tells of the memory",
    "src/io/manifest.cpp": "the files that have just been written, and the manifest",
    "src/io/safetensors.cpp": "a file that the caller names",
    "src/io/model_file.cpp": "a shard of an older save, which is kept until the new save is complete",
    "src/io/save_model_files.cpp": "the config of the save that is replaced",
    "src/io/image.cpp": "a picture that the caller names",
    "src/models/vae/lpips.cpp": "a weights file that the caller names",
    "src/data/idx.cpp": "a data file that the caller names",
    "src/data/image_buckets.cpp": "the pictures of a folder that the caller names",
    "src/data/tar_dataset.cpp": "a shard that the caller names",
    "src/schedulers/scheduler_config.cpp": "a config file that the caller names",
    "src/training/checkpoint/output_folder.cpp": "the config, the metrics and the marker of earlier trainings in the output folder",
    "src/training/loop/training_resume.cpp": "files whose places and bytes the manifest has confirmed",
    "src/training/observe/metrics_log.cpp": "the log of the training itself",
    "src/training/averaging/power_ema_solve.cpp": "snapshots that the caller names",
    "src/training/observe/record_file.cpp": "the record that the training writes",
    "src/training/observe/report.cpp": "the pictures that the training has drawn",
}
DIRECTIVE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)


def includes(path):
    return DIRECTIVE.findall(path.read_text())


def folder_of(name):
    """Returns the folder of an include: <diffusers/core/error.h> or "core/json.h" -> core."""
    parts = name.removeprefix("diffusers/").split("/")
    return parts[0] if len(parts) > 1 and parts[0] in RANK else None


def sources(base):
    return sorted(p for p in base.rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".cuh"})


def check_ranks(problems):
    for base, prefix in ((INCLUDE / "diffusers", "diffusers/"), (SRC, "")):
        for path in sources(base):
            own = folder_of(prefix + path.relative_to(base).as_posix())
            if own is None:
                if prefix + path.relative_to(base).as_posix() != UMBRELLA:
                    problems.append(f"{path.relative_to(ROOT)}: lies in no folder of the table in {__file__}")
                continue
            for _, name in includes(path):
                other = folder_of(name)
                if name == UMBRELLA:
                    problems.append(f"{path.relative_to(ROOT)}: includes everything ({UMBRELLA})")
                elif other and other != own and RANK[other] >= RANK[own]:
                    problems.append(f"{path.relative_to(ROOT)}: {own} may not include {name}")


def inner_folders():
    """Returns name of a public header or private file, without its extension -> its sub-folder."""
    places = {}
    for folder in INNER_RANK:
        for path in sources(SRC / folder):
            inner = path.parent.relative_to(SRC / folder).as_posix()
            place = ROOT_OF[folder] if inner == "." else inner
            places[path.relative_to(SRC).with_suffix("").as_posix()] = place
            if path.suffix == ".cpp":
                places[f"diffusers/{folder}/{path.stem}"] = place
    for name, inner in HEADER_ONLY.items():
        places[f"diffusers/{name}"] = inner
    return places


def check_inner_ranks(problems):
    places = inner_folders()
    found = set()
    for folder, ranks in INNER_RANK.items():
        for base, prefix in ((INCLUDE / "diffusers" / folder, f"diffusers/{folder}/"), (SRC / folder, f"{folder}/")):
            for path in sources(base):
                shown = path.relative_to(ROOT).as_posix()
                own = places.get(prefix + path.relative_to(base).with_suffix("").as_posix())
                if own is None:
                    problems.append(f"{shown}: no source has this name; add the header to HEADER_ONLY")
                    continue
                if own not in ranks:
                    problems.append(f"{shown}: the sub-folder {own} is not in INNER_RANK")
                    continue
                for _, name in includes(path):
                    other = places.get(name.rsplit(".", 1)[0])
                    if folder_of(name) != folder or other in (None, own) or ranks[other] < ranks[own]:
                        continue
                    if (shown, name) in INNER_EXCEPTIONS:
                        found.add((shown, name))
                    else:
                        problems.append(f"{shown}: {folder}/{own} may not include {name}, which belongs to {folder}/{other}")
    for name in sorted(f"diffusers/{name}" for name in HEADER_ONLY):
        folder = name.split("/")[1]
        if not (INCLUDE / f"{name}.h").exists() or any((SRC / folder).rglob(pathlib.Path(name).name + ".cpp")):
            problems.append(f"include/{name}.h: is no header without a source; remove it from HEADER_ONLY")
    for file, name in sorted(set(INNER_EXCEPTIONS) - found):
        problems.append(f"{file}: does not include {name} any more; remove it from INNER_EXCEPTIONS")


CLASS = re.compile(r"^(?:class|struct)\s+(\w+)\s*(?:final\s*)?(?::\s*([^{;]+))?\{", re.M)


def check_bases(problems):
    defined, bases = {}, {}
    for base in (INCLUDE, SRC):
        for path in sources(base):
            if path.suffix != ".h":
                continue
            for name, parents in CLASS.findall(path.read_text()):
                defined[name] = path
                bases[name] = set(re.findall(r"\w+", parents))
    for name, parents in bases.items():
        for parent in parents & set(defined):
            if defined[parent] == defined[name]:
                continue
            included = {other for _, other in includes(defined[parent])}
            header = defined[name].relative_to(INCLUDE if INCLUDE in defined[name].parents else SRC).as_posix()
            if header in included:
                problems.append(f"{defined[parent].relative_to(ROOT)}: defines {parent}, and includes {header} of the derived "
                                f"{name}")


def reachable(name, seen):
    """Returns every header that a public header includes, directly or not, with the chain of includes."""
    path = INCLUDE / name
    for _, other in includes(path):
        if other in seen:
            continue
        seen[other] = name
        if (INCLUDE / other).exists():
            reachable(other, seen)
    return seen


def chain(seen, name, start):
    links = [name]
    while links[-1] != start:
        links.append(seen[links[-1]])
    return " <- ".join(links)


def check_public_headers(problems):
    for path in sources(INCLUDE):
        name = path.relative_to(INCLUDE).as_posix()
        seen = reachable(name, {})
        light = folder_of(name) in LIGHT_FOLDERS
        for other in seen:
            if PRIVATE.match(other):
                problems.append(f"include/{name}: reaches a private dependency: {chain(seen, other, name)}")
            if light and TORCH.match(other) and not LIGHT_TORCH.match(other):
                problems.append(f"include/{name}: is a light header, but reaches {chain(seen, other, name)}")
        for kind, other in includes(path):
            if kind == '"':
                problems.append(f'include/{name}: includes "{other}"; public headers use <diffusers/...>')


def check_opens(problems):
    opening = set()
    for path in sources(SRC):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix != ".cpp" or not OPENS.search(path.read_text()):
            continue
        opening.add(name)
        if name not in OPENED_BY_PATH:
            problems.append(f"{name}: opens a file by its path; the files of a model folder are opened by open_model_file "
                            "or read_model_file (see OPENED_BY_PATH)")
    for name in sorted(set(OPENED_BY_PATH) - opening):
        problems.append(f"{name}: opens no file by its path any more; remove it from OPENED_BY_PATH")


def check_umbrella(problems):
    umbrella = INCLUDE / UMBRELLA
    public = {p.relative_to(INCLUDE).as_posix() for p in sources(INCLUDE)} - {UMBRELLA}
    named = {name for _, name in includes(umbrella)} if umbrella.exists() else set()
    named.discard("torch/torch.h")
    for name in sorted(public - named):
        problems.append(f"include/{UMBRELLA}: lacks #include <{name}>")
    for name in sorted(named - public):
        problems.append(f"include/{UMBRELLA}: names <{name}>, which does not exist")


def write_umbrella():
    public = sorted(p.relative_to(INCLUDE).as_posix() for p in sources(INCLUDE))
    lines = "".join(f"#include <{name}>\n" for name in public if name != UMBRELLA)
    (INCLUDE / UMBRELLA).write_text(
        "#pragma once\n\n/// @file\n"
        "/// All of libdiffusers, and LibTorch's own interface, for programs that do not mind the compile time.\n"
        f"/// Kept by `tests/layers/check_layers.py --write`.\n\n{lines}\n#include <torch/torch.h>\n")


def check_private_headers(problems):
    for header in sorted(SRC.rglob("*.h")):
        if not re.search(r"^namespace diffusers \{\ninline namespace internal \{$", header.read_text(), re.M):
            problems.append(f"{header.relative_to(ROOT)}: private headers declare in `namespace diffusers` > "
                            "`inline namespace internal`")


def main():
    if sys.argv[1:] == ["--write"]:
        write_umbrella()
    problems = []
    check_ranks(problems)
    check_inner_ranks(problems)
    check_bases(problems)
    check_public_headers(problems)
    check_private_headers(problems)
    check_opens(problems)
    check_umbrella(problems)
    print("\n".join(problems) if problems else "The layers hold.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
