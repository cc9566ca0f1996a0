#!/usr/bin/env python3
"""Tests every pair of flags of train_mnist: train_mnist_test.py PROGRAM [--list]

The flags are those of `--help`. The runs cover each pair of values of two flags. A run must succeed, or end before the
training with an error that names a flag. In that case it is repeated without the flag, to test the other flags. Pairs that
are known to exclude each other must be refused, in separate runs. A flag without values in this file fails the test.
"""
import argparse
import itertools
import pathlib
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_inputs, make_shards

# Arguments that make a run short.
SHORT = ["--max_train_steps", "2", "--train_batch_size", "4", "--eval_batch_size", "4", "--ddpm_num_inference_steps", "2"]


def values(folder):
    """Returns the lists of arguments for each flag. The first list is that of a run without the flag."""
    idx = ["--data_dir", folder / "idx"]
    return {
        "--dataset": [idx, ["--dataset", "fashion-mnist", *idx], ["--train_data_dir", folder / "classes"],
                      ["--train_data_dir", folder / "flat"], ["--train_shards", folder / "shards/s-{0..1}.tar"]],
        "--shuffle_buffer_size": [[], [2]],
        "--num_train_samples": [[], [8]],
        "--num_classes": [[], [10]],
        "--enable_bucketing": [[], ["--enable_bucketing", "--bucket_step", 4]],
        "--ddp_timeout": [[], [60]],
        "--ddp_bucket_cap_mb": [[], [5]],
        "--zero_stage": [[], [1]],
        "--model_config_name_or_path": [["--resolution", 8],
                                        ["--model_config_name_or_path", folder / "gray/config.json"],
                                        ["--model_config_name_or_path", folder / "color"],
                                        ["--model_config_name_or_path", folder / "gray_classes"],
                                        ["--model_config_name_or_path", folder / "color_classes"],
                                        ["--model_config_name_or_path", folder / "gray", "--resolution", 12]],
        "--ddpm_num_steps": [[], [40]],
        "--ddpm_num_inference_steps": [[], [50]],
        "--ddim_eta": [[], [0]],
        "--temperature": [[], [1]],
        "--guidance_scale": [[], [1], [3]],
        "--class_dropout_prob": [[], [0.5]],
        "--snr_gamma": [[], [5]],
        "--noise_offset": [[], [0.1]],
        "--input_perturbation": [[], [0.1]],
        "--p2_gamma": [[], [0.5]],
        "--p2_k": [[], [2]],
        "--sigma_data": [[], [1]],
        "--l_simple_weight": [[], [0.5]],
        "--original_elbo_weight": [[], [0.1]],
        "--logvar_init": [[], [0.5]],
        "--huber_c": [[], [0.2]],
        "--logit_mean": [[], [0.5]],
        "--logit_std": [[], [2]],
        "--mode_scale": [[], [0.5]],
        "--timestep_bias_multiplier": [[], [2]],
        "--timestep_bias_begin": [[], [10]],
        "--timestep_bias_end": [[], [30]],
        "--timestep_bias_portion": [[], [0.5]],
        "--pyramid_noise_iterations": [[], [2]],
        "--pyramid_noise_discount": [[], [0.8]],
        "--output_dir": [[]],  # each run has a separate folder
        "--device": [[], ["cpu"]],
        "--seed": [[], [7]],
        "--train_batch_size": [[], [1]],
        "--num_epochs": [[], [1]],
        "--max_train_steps": [[]],  # the same for all runs
        "--gradient_accumulation_steps": [[], [2]],
        "--learning_rate": [[], [1e-4]],
        "--lr_scheduler": [[], ["linear"], ["constant_with_warmup"], ["cosine_with_restarts"], ["polynomial"],
                           ["piecewise_constant"]],
        "--lr_warmup_steps": [[], [0]],
        "--max_grad_norm": [[], [0]],
        "--adam_beta1": [[], [0.8]],
        "--adam_beta2": [[], [0.9]],
        "--adam_weight_decay": [[], [0.1]],
        "--adam_epsilon": [[], [1e-6]],
        "--lr_num_cycles": [[], [2]],
        "--lr_power": [[], [2]],
        "--lr_step_rules": [[], ["1:1,0.1"]],
        "--lr_factors": [[], ["*.bias:0.5", "conv_in.*:0"]],
        "--no_decay": [[], ["*.bias"]],
        "--sgd_momentum": [[], [0.9]],
        "--sgd_dampening": [[], [0.5]],
        "--adafactor_beta2_decay": [[], [-0.5]],
        "--adafactor_eps1": [[], [1e-5]],
        "--adafactor_eps2": [[], [1e-2]],
        "--adafactor_d": [[], [2]],
        "--use_ema_warmup": [[], ["false"]],
        "--ema_min_decay": [[], [0.1]],
        "--ema_update_after_step": [[], [1]],
        "--max_nonfinite_steps": [[], [2]],
        "--progress_bar": [[], ["false"]],
        "--validation_samples": [[], [3]],
        "--validation_bins": [[], [4]],
        "--ema_inv_gamma": [[], [2]],
        "--ema_power": [[], [0.5]],
        "--ema_max_decay": [[], [0.9]],
        "--post_hoc_ema_sigma_rels": [[], [0.05, 0.1]],
        "--post_hoc_ema_steps": [[], [1]],
        "--freeze": [[], ["conv_in.*"]],
        "--train_only": [[], ["conv_*"]],
        "--dataloader_num_workers": [[], [2]],
        "--cpu_data_parallel": [[], [1]],
        "--checkpointing_steps": [[], [1]],
        "--checkpoints_total_limit": [[], [1]],
        "--resume_from_checkpoint": [[], ["latest"]],
        "--background_checkpoints": [[], ["false"]],
        "--validation_steps": [[], [1]],
        "--save_images_epochs": [[], [1]],
        "--save_model_epochs": [[], [1]],
        "--logging_steps": [[], [1]],
        "--logging_dir": [[], ["tensorboard"]],
        "--logger": [[], ["tensorboard"]],
        "--report_to": [[], ["tensorboard"]],
        "--tensorboard": [[], ["false"]],
        "--report": [[], ["false"]],
        "--eval_batch_size": [[], [2]],
    }


# Levels of two factors that exclude each other, by their position in the lists above. A string is the value of a choice.
CONFLICTS = [
    ("--guidance_scale", [1, 2], "--class_conditional", [0]),
    ("--class_dropout_prob", [1], "--class_conditional", [0]),
    ("--center_crop", [1], "--dataset", [0, 1]),
    *((flag, [1], "--dataset", [0, 1, 2, 3]) for flag in ("--shuffle_buffer_size", "--num_train_samples", "--num_classes")),
    ("--enable_bucketing", [1], "--dataset", [0, 1, 4]),
    ("--model_config_name_or_path", [4], "--dataset", [4]),  # two classes against ten or none
    ("--class_conditional", [1], "--dataset", [3]),
    ("--model_config_name_or_path", [2, 4], "--dataset", [0, 1]),  # three channels
    ("--model_config_name_or_path", [3, 4], "--dataset", [3]),  # classes
    ("--model_config_name_or_path", [3], "--dataset", [2]),  # ten classes against two
    ("--model_config_name_or_path", [3, 4], "--class_conditional", [0]),
    ("--ddpm_num_steps", [1], "--ddpm_num_inference_steps", [1]),
    ("--save_images_epochs", [1], "--validation_steps", [1]),
    ("--snr_gamma", [1], "--weighting", ["p2", "edm", "debiased", "truncated_snr"]),
    ("--timestep_bias_strategy", ["earlier", "later", "range"], "--timestep_sampling",
     ["stratified", "antithetic", "logit_normal", "mode", "loss_second_moment", "cubic"]),
    # Without effect.
    ("--p2_gamma", [1], "--weighting", [0, "none", "min_snr", "soft_min_snr", "edm", "debiased", "truncated_snr"]),
    ("--p2_k", [1], "--weighting", [0, "none", "min_snr", "soft_min_snr", "edm", "debiased", "truncated_snr"]),
    ("--timestep_bias_multiplier", [1], "--timestep_bias_strategy", [0, "none"]),
    ("--timestep_bias_begin", [1], "--timestep_bias_strategy", [0, "none", "earlier", "later"]),
    ("--timestep_bias_end", [1], "--timestep_bias_strategy", [0, "none", "earlier", "later"]),
    ("--timestep_bias_portion", [1], "--timestep_bias_strategy", [0, "none", "range"]),
    ("--pyramid_noise_discount", [1], "--pyramid_noise_iterations", [0]),
    ("--post_hoc_ema_steps", [1], "--post_hoc_ema_sigma_rels", [0]),
    ("--ema_inv_gamma", [1], "--no_use_ema", [1]),
    ("--ema_power", [1], "--no_use_ema", [1]),
    ("--ema_max_decay", [1], "--no_use_ema", [1]),
    ("--ema_min_decay", [1], "--no_use_ema", [1]),
    ("--ema_update_after_step", [1], "--no_use_ema", [1]),
    ("--use_ema_warmup", [1], "--no_use_ema", [1]),
    ("--ema_type", ["lit_ema"], "--no_use_ema", [1]),
    ("--ema_inv_gamma", [1], "--use_ema_warmup", [1]),
    ("--ema_power", [1], "--use_ema_warmup", [1]),
    ("--ema_inv_gamma", [1], "--ema_type", ["lit_ema"]),
    ("--ema_power", [1], "--ema_type", ["lit_ema"]),
    ("--ema_min_decay", [1], "--ema_type", ["lit_ema"]),
    ("--ema_update_after_step", [1], "--ema_type", ["lit_ema"]),
    ("--huber_c", [1], "--loss_type", [0, "l2", "l1"]),
    ("--huber_schedule", ["exponential", "snr"], "--loss_type", [0, "l2", "l1"]),
    ("--logit_mean", [1], "--timestep_sampling",
     [0, "uniform", "stratified", "antithetic", "mode", "loss_second_moment", "cubic"]),
    ("--logit_std", [1], "--timestep_sampling",
     [0, "uniform", "stratified", "antithetic", "mode", "loss_second_moment", "cubic"]),
    ("--mode_scale", [1], "--timestep_sampling",
     [0, "uniform", "stratified", "antithetic", "logit_normal", "loss_second_moment", "cubic"]),
    ("--sigma_data", [1], "--weighting", [0, "none", "min_snr", "soft_min_snr", "p2", "debiased", "truncated_snr"]),
    ("--logvar_init", [1], "--learned_log_variance", [0, "none", "fourier"]),
    ("--lr_num_cycles", [1], "--lr_scheduler", [0, 1, 2]),
    ("--lr_power", [1], "--lr_scheduler", [0, 1, 2]),
    ("--lr_step_rules", [1], "--lr_scheduler", [0, 1, 2]),
    ("--fused_backward_pass", [1], "--max_grad_norm", [0]),
    ("--fused_backward_pass", [1], "--gradient_accumulation_steps", [1]),
    ("--fused_backward_pass", [1], "--mixed_precision", ["fp16"]),
    ("--sgd_momentum", [1], "--optimizer", [0, "adamw", "adam", "lion", "adafactor"]),
    ("--sgd_dampening", [1], "--sgd_momentum", [0]),
    ("--sgd_nesterov", [1], "--sgd_momentum", [0]),
    ("--sgd_nesterov", [1], "--sgd_dampening", [1]),
    ("--adam_amsgrad", [1], "--optimizer", ["sgd", "lion", "adafactor"]),
    *((flag, [1], "--optimizer", [0, "adamw", "adam", "lion", "sgd"])
      for flag in ("--adafactor_beta2_decay", "--adafactor_eps1", "--adafactor_eps2", "--adafactor_d")),
    *((flag, [1], "--dataset", [2, 3, 4]) for flag in ("--validation_samples", "--validation_bins")),
    ("--adam_beta1", [1], "--optimizer", ["sgd", "adafactor"]),
    ("--adam_beta2", [1], "--optimizer", ["sgd", "adafactor"]),
    ("--adam_epsilon", [1], "--optimizer", ["sgd", "lion", "adafactor"]),
]  # fmt: skip
# Command lines that are refused, and the flag that the error names.
MISTAKES = [
    (["--train_data_dir", "flat", "--data_dir", "idx"], "--data_dir"),
    (["--train_data_dir", "flat", "--dataset", "mnist"], "--dataset"),
    (["--dataset", "flat"], "--dataset"),
    (["--data_dir", "idx", "--resolution", "10"], "--resolution"),
    (["--data_dir", "idx", "--save_model_epochs", "1", "--validation_steps", "0"], "--save_model_epochs"),
    (["--data_dir", "idx", "--push_to_hub"], "--push_to_hub"),
    (["--data_dir", "idx", "--eval_batch_size", "1"], "--eval_batch_size"),
    (["--data_dir", "idx", "--ddpm_num_inference_steps", "0"], "--ddpm_num_inference_steps"),
    (["--data_dir", "nowhere"], "nowhere"),
    (["--data_dir", "idx", "--mixed_precision", "fp8"], "--mixed_precision"),
    (["--data_dir", "idx", "--learning_rate", "high"], "--learning_rate"),
    (["--data_dir", "idx", "--no_such_flag"], "--no_such_flag"),
]


def read_help(text):
    """Returns flag -> the values in the help text: None for a flag without a value, an empty list for any value."""
    flags = {}
    for line in text.splitlines():
        if match := re.match(r"  (-\S+(?:,-\S+)*)(?: (\S+))?", line):
            names = [name.split("{")[0] for name in match[1].split(",") if name.startswith("--")]
            kind = match[2] or ""
            choices = re.search(r":\{(.*)\}", kind)
            takes_value = kind[:1].isupper() and kind.upper().startswith(("TEXT", "INT", "FLOAT", "BOOLEAN", "UINT"))
            # The other names of a flag with a value mean the same. Those of a switch set another value.
            for name in names[:1] if choices or takes_value else names:
                flags[name] = choices[1].split(",") if choices else [] if takes_value else None
    flags.pop("--help")
    return flags


def factors(help_text, folder):
    """Returns name -> levels, each a list of arguments. The first is the default."""
    offered, table = read_help(help_text), values(folder)
    assert len(offered) > 50 and "--preset" in offered and offered["--random_flip"] is None, f"cannot read the help: {offered}"
    result = {}
    for name, levels in table.items():
        result[name] = [[str(word) for word in (level if i == 0 or str(level[0]).startswith("--") else [name, *level])]
                        for i, level in enumerate(levels)]
    for name, choices in offered.items():
        if choices is None and name not in table:
            result[name] = [[], [name]]
        elif choices and name not in table:
            result[name] = [[], *([name, choice] for choice in choices)]
    covered = {word for levels in result.values() for level in levels for word in level if word.startswith("--")}
    unknown = sorted(set(offered) - covered - {"--output_dir", "--max_train_steps"})
    stale = sorted((covered | set(table)) - set(offered))
    if unknown or stale:
        sys.exit(f"FAILED: flags of --help that this test has no values for: {unknown}; flags that are no more: {stale}")
    return result


def conflicts(levels):
    """Returns the pairs ((factor, level), (factor, level)) of CONFLICTS, in both orders."""
    def positions(name, chosen):
        return [level if isinstance(level, int) else levels[name].index([name, level]) for level in chosen]

    pairs = [((a, i), (b, j)) for a, of_a, b, of_b in CONFLICTS for i in positions(a, of_a) for j in positions(b, of_b)]
    return pairs, {*pairs, *((second, first) for first, second in pairs)}


def rows(levels, seed=0):
    """Returns rows {factor: level} that cover all pairs of levels except CONFLICTS (greedy, from a fixed seed)."""
    names, (_, excluded) = list(levels), conflicts(levels)
    draw = random.Random(seed)
    missing = {((a, i), (b, j)) for a, b in itertools.combinations(names, 2)
               for i in range(len(levels[a])) for j in range(len(levels[b]))} - excluded
    order = {name: position for position, name in enumerate(names)}

    def pair(a, i, b, j):
        return ((a, i), (b, j)) if order[a] < order[b] else ((b, j), (a, i))

    while missing:
        best, most = None, -1
        for _ in range(6):
            (a, i), (b, j) = draw.choice(sorted(missing)) if best is None else draw.choice(list(missing))
            row = {a: i, b: j}
            for name in draw.sample(names, len(names)):
                if name not in row:
                    possible = [level for level in range(len(levels[name]))
                                if not any(((name, level), item) in excluded for item in row.items())] or [0]
                    gains = [sum(pair(name, level, other, of) in missing for other, of in row.items())
                             for level in possible]
                    row[name] = draw.choice([level for level, gain in zip(possible, gains) if gain == max(gains)])
            found = {pair(a, row[a], b, row[b]) for a, b in itertools.combinations(names, 2)} & missing
            if len(found) > most:
                best, most = row, len(found)
                best_found = found
        missing -= best_found
        yield best


class Failure(Exception):
    pass


def names(flag, text):
    """Returns true if a message names a flag, as on the command line or as a field of the config."""
    return re.search(rf"(?<![A-Za-z0-9_]){flag[2:]}(?![A-Za-z0-9_])", text) is not None


class Runs:
    def __init__(self, program, folder, levels, offered):
        self.program, self.folder, self.levels, self.offered = program, folder, levels, offered
        self.count = self.refused = 0

    def complete(self, arguments):
        """Adds the arguments that make a run short, except for flags that are given."""
        arguments = ["--output_dir", str(self.folder / "out"), *arguments]
        for flag, value in zip(SHORT[::2], SHORT[1::2]):
            if flag not in arguments:
                arguments[:0] = [flag, value]
        return arguments

    def named_factor(self, row, text):
        """Returns a factor that does not have its default and whose flag the error names."""
        for name, level in row.items():
            if level == 0:
                continue
            if any(names(word, text) for word in self.levels[name][level] if word.startswith("--")):
                return name
        return None

    def run(self, row):
        """Runs a row, and again without each flag that an error names."""
        row = dict(row)
        while True:
            self.count += 1
            out = self.folder / "out"
            shutil.rmtree(out, ignore_errors=True)
            arguments = self.complete(word for name in row for word in self.levels[name][row[name]])
            result = subprocess.run([self.program, *arguments], cwd=self.folder, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True, errors="replace", timeout=600)
            command = " ".join(["train_mnist", *arguments]) + "\n" + result.stdout
            if result.returncode == 0:
                if not (out / "samples.png").exists() or not (out / "unet/config.json").exists():
                    raise Failure("no samples.png or no model although the exit code is 0: " + command)
                return
            if result.returncode < 0 or "frame #" in result.stdout:
                raise Failure(f"exit code {result.returncode}: {command}")
            if (out / "unet").exists():
                raise Failure("the error comes after the training: " + command)
            # A warning may name a flag, too.
            error = "\n".join(line for line in result.stdout.splitlines() if not line.startswith("diffusers warning"))
            name = self.named_factor(row, error)
            self.refused += 1
            if name is None:
                # A flag that is not given, but whose default is not valid.
                if not any(names(flag, error) for flag in self.offered):
                    raise Failure("the error names no flag: " + command)
                return
            row[name] = 0


    def must_refuse(self, arguments, part):
        self.count += 1
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        arguments = self.complete(arguments)
        result = subprocess.run([self.program, *arguments], cwd=self.folder, timeout=600, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, errors="replace")
        command = " ".join(["train_mnist", *arguments]) + "\n" + result.stdout
        if result.returncode <= 0 or "frame #" in result.stdout or (out / "unet").exists():
            raise Failure(f"it is not refused before the training (exit code {result.returncode}): {command}")
        if not any(word.removeprefix("--") in result.stdout for word in part):
            raise Failure(f"the error names none of {part}: {command}")
        self.refused += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--list", action="store_true", help="print the flags and the number of runs alone")
    arguments = parser.parse_args()
    arguments.program = str(pathlib.Path(arguments.program).resolve())
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        make_inputs(folder)
        make_shards(folder / "shards")
        help_text = subprocess.run([arguments.program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        levels = factors(help_text, folder)
        if arguments.list:
            print(f"{len(levels)} factors, {sum(map(len, levels.values()))} levels, {sum(1 for _ in rows(levels))} rows")
            return 0
        runs, failures = Runs(arguments.program, folder, levels, read_help(help_text)), []
        def attempt(function, *values):
            try:
                function(*values)
            except Failure as failure:
                failures.append(str(failure))
                print(f"FAILED: {failure}", flush=True)

        for words, part in MISTAKES:
            attempt(runs.must_refuse, words, [part])
        for (a, i), (b, j) in conflicts(levels)[0]:
            row = {"--dataset": 0, "--model_config_name_or_path": 0, a: i, b: j}
            attempt(runs.must_refuse, [word for name, level in row.items() for word in levels[name][level]], [a, b])
        for row in rows(levels):
            attempt(runs.run, row)
    print(f"{len(levels)} flags, {runs.count} runs, {runs.refused} of them refused with the name of a flag, "
          f"{len(failures)} failures in {time.monotonic() - start:.0f} s, "
          f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime:.0f} s of CPU")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
