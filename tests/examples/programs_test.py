#!/usr/bin/env python3
"""Tests the behaviour that all programs share: programs_test.py SOURCES PROGRAM...

Each flag has a help text and a default. An unknown flag and a value that does not fit are errors that name the flag.
Programs check the device before any work, and show an error of LibTorch without its stack trace.
"""
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = pathlib.Path(sys.argv[1])
PROGRAMS = {pathlib.Path(path).name: pathlib.Path(path).resolve() for path in sys.argv[2:]}
MODEL = ROOT / "tests/golden/tiny_ddpm_pipeline"
STABLE_DIFFUSION = ["--pretrained_model_name_or_path", ROOT / "tests/golden/tiny_stable_diffusion", "--train_data_dir", "none"]
DREAMBOOTH = [*STABLE_DIFFUSION[:2], "--instance_data_dir", "none", "--instance_prompt", "a cat"]
# Arguments that a program needs besides --device to start its work.
ARGUMENTS = {
    "compare_schedulers": ["--model", MODEL],
    "convert_lora": ["none", "out", "--model", MODEL],
    "diffusion_from_scratch": ["--data_dir", ROOT / "examples/data/mnist"],
    "inspect_checkpoint": [MODEL],
    "mnist_controlnet": ["--pretrained_model_name_or_path", "none", "--data_dir", ROOT / "examples/data/mnist"],
    "mnist_dreambooth": ["--pretrained_model_name_or_path", "none", "--data_dir", ROOT / "examples/data/mnist"],
    "mnist_new_word": ["--pretrained_model_name_or_path", "none", "--data_dir", ROOT / "examples/data/mnist"],
    "mnist_style_lora": ["--pretrained_model_name_or_path", "none", "--data_dir", ROOT / "examples/data/mnist"],
    "mnist_text_to_image": ["--data_dir", ROOT / "examples/data/mnist"],
    "reconstruct_ema": [MODEL, "--model", MODEL, "--output", "out"],
    "sample": ["--model", MODEL],
    "textual_inversion": [*STABLE_DIFFUSION, "--placeholder_token", "<x>", "--initializer_token", "cat"],
    "train_instruct_pix2pix": STABLE_DIFFUSION,
    "train_latent_diffusion": ["--vae", ROOT / "tests/golden/tiny_ldm_pipeline", "--dataset", "mnist",
                               "--data_dir", ROOT / "examples/data/mnist"],
    "train_controlnet": STABLE_DIFFUSION,
    "train_autoencoder": ["--dataset", "mnist", "--data_dir", ROOT / "examples/data/mnist", "--perceptual_weight", "0"],
    "train_mnist": ["--data_dir", ROOT / "examples/data/mnist"],
    "train_dreambooth": DREAMBOOTH,
    "train_dreambooth_lora": DREAMBOOTH,
    "train_t2i_adapter": STABLE_DIFFUSION,
    "train_text_to_image": STABLE_DIFFUSION,
    "train_text_to_image_lora": STABLE_DIFFUSION,
    "train_unconditional": ["--dataset", "mnist", "--data_dir", ROOT / "examples/data/mnist"],
}
# Values outside of the range of a flag.
OUT_OF_RANGE = [
    ("compare_schedulers", "--steps", "0"),
    ("compare_schedulers", "--timestep_spacing", "even"),
    ("diffusion_from_scratch", "--train_batch_size", "0"),
    ("mnist_controlnet", "--eval_batch_size", "1"),
    ("mnist_dreambooth", "--num_class_images", "0"),
    ("mnist_dreambooth", "--prior_loss_weight", "-1"),
    ("mnist_new_word", "--num_images", "0"),
    ("mnist_style_lora", "--rank", "0"),
    ("mnist_style_lora", "--num_images", "0"),
    ("mnist_text_to_image", "--vae_train_steps", "0"),
    ("mnist_text_to_image", "--max_train_samples", "-1"),
    ("mnist_text_to_image", "--resolution", "20"),
    ("mnist_text_to_image", "--proportion_empty_prompts", "2"),
    ("reconstruct_ema", "--sigma_rel", "0"),
    ("reconstruct_ema", "--sigma_rel", "nan"),
    ("sample", "--num_images", "0"),
    ("sample", "--num_inference_steps", "0"),
    ("sample", "--eta", "1.5"),
    ("sample", "--strength", "-0.1"),
    ("sample", "--controlnet_conditioning_scale", "nan"),
    ("sample", "--seed", "-1"),
    ("sample", "--scheduler", "none"),
    ("textual_inversion", "--num_vectors", "0"),
    ("textual_inversion", "--learnable_property", "shape"),
    ("train_instruct_pix2pix", "--conditioning_dropout_prob", "0.4"),
    ("train_latent_diffusion", "--conditioning_dropout_prob", "1"),
    ("train_latent_diffusion", "--conditioning_key", "text"),
    ("train_latent_diffusion", "--num_inference_steps", "0"),
    ("train_controlnet", "--proportion_empty_prompts", "1.5"),
    ("train_controlnet", "--num_validation_images", "0"),
    ("train_t2i_adapter", "--crops_coords_top_left_h", "-1"),
    ("train_t2i_adapter", "--num_validation_images", "0"),
    ("train_text_to_image_lora", "--rank", "0"),
    ("train_text_to_image_lora", "--lora_dropout", "1.5"),
    ("train_dreambooth", "--num_class_images", "0"),
    ("train_dreambooth", "--sample_batch_size", "0"),
    ("train_dreambooth", "--prior_loss_weight", "-1"),
    ("train_dreambooth", "--prior_generation_precision", "fp8"),
    ("train_dreambooth", "--validation_scheduler", "LMSDiscreteScheduler"),
    ("train_dreambooth_lora", "--rank", "0"),
    ("train_dreambooth_lora", "--repeats", "0"),
    ("train_dreambooth_lora", "--text_encoder_lr", "-1"),
    ("sample", "--lora_scale", "nan"),
    *(("train_autoencoder", flag, value) for flag, value in (
        ("--model", "gan"), ("--block_out_channels", "0"), ("--num_vq_embeddings", "0"), ("--perceptual_weight", "-1"),
        ("--disc_start", "-1"), ("--disc_factor", "-1"), ("--disc_weight", "nan"), ("--disc_loss", "wgan"),
        ("--disc_num_layers", "0"), ("--pixel_loss", "huber"), ("--kl_weight", "-1"), ("--logvar_init", "inf"),
        ("--learning_rate", "-1"), ("--resolution", "0"), ("--num_validation_images", "0"))),
    ("train_mnist", "--temperature", "-1"),
    ("train_mnist", "--ddim_eta", "2"),
    ("train_mnist", "--eval_batch_size", "1"),
    ("train_text_to_image", "--max_train_samples", "-1"),
    ("train_text_to_image", "--prediction_type", "noise"),
    ("train_text_to_image", "--image_column", "picture"),
    *(("train_unconditional", flag, value) for flag, value in (
        ("--resolution", "0"), ("--resolution", "28"), ("--train_batch_size", "0"), ("--num_epochs", "0"),
        ("--max_train_steps", "0"), ("--gradient_accumulation_steps", "0"), ("--learning_rate", "-1"),
        ("--learning_rate", "nan"), ("--lr_scheduler", "fast"), ("--lr_warmup_steps", "-1"), ("--max_grad_norm", "inf"),
        ("--adam_beta1", "1"), ("--ema_max_decay", "2"), ("--eval_batch_size", "0"), ("--guidance_scale", "-1"),
        ("--ddpm_num_inference_steps", "1001"), ("--ddpm_num_inference_steps", "0"), ("--checkpointing_steps", "-1"),
        ("--logging_steps", "0"), ("--logging_dir", "../logs"), ("--save_images_epochs", "0"), ("--save_model_epochs", "0"),
        ("--dataloader_num_workers", "-1"), ("--cpu_data_parallel", "-1"), ("--seed", "-5"), ("--logger", "wandb"),
        ("--ddp_timeout", "0"), ("--ddp_bucket_cap_mb", "0"), ("--ddp_gradient_compression", "zip"),
        ("--zero_stage", "3"))),
]
# Fields of TrainingConfig that are no flags of the training programs, with the reason.
NO_FLAGS = {
    "handle_signals": "programs always end with a checkpoint when they get a signal",
}
# Arguments for which a program asks LibTorch for more memory than there is.
TOO_LARGE = {
    "compare_schedulers": ["--model", MODEL, "--num_images", 10**12],
    "sample": ["--model", MODEL, "--num_images", 10**12],
}


def training_fields():
    """The fields of TrainingConfig, as its header declares them."""
    header = (ROOT / "include/diffusers/training/training_config.h").read_text()
    body = re.search(r"^struct TrainingConfig \{$(.*?)^\};$", header, re.MULTILINE | re.DOTALL)[1]
    return re.findall(r"^  [\w:<>]+ (\w+) = ", body, re.MULTILINE)


def read_flags(help_text):
    """Returns (name, type and default, description) of each flag and positional argument in a help text."""
    flags, lines = [], help_text.splitlines()
    for i, line in enumerate(lines):
        if not re.match(r"  [-a-z]", line):
            continue
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if following.startswith(" " * 30):
            head, description = line.strip(), following.strip()
        else:
            head, description = line[:30].strip(), line[30:].strip()
        name, _, kind = head.partition(" ")
        flags.append((name.split(",")[-1] if name.startswith("-h") else name.split(",")[0], kind, description))
    return flags


class Programs(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)

    def help_of(self, name):
        return subprocess.run([PROGRAMS[name], "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout

    def all_name_their_flag(self, attempts):
        """Runs programs with (program, flag, value), and expects errors that name the flag."""
        def attempt(item):
            name, flag, value = item
            words = [word for word in ARGUMENTS[name] if word != flag]
            return item, self.fails(name, [*words, f"{flag}={value}" if value else flag])

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            for item, message in pool.map(attempt, attempts):
                with self.subTest(attempt=item):
                    # The library names the field of a config, which has the name of the flag.
                    self.assertRegex(message, rf"(?<![A-Za-z0-9_]){item[1].removeprefix('--')}(?![A-Za-z0-9_])")
        self.assertEqual(list(self.folder.iterdir()), [], "a program began to work")

    def fails(self, name, arguments):
        """Returns the message of a run that must fail without a stack trace."""
        result = subprocess.run([PROGRAMS[name], *map(str, arguments)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=600)
        self.assertGreater(result.returncode, 0, result.stdout)
        self.assertNotRegex(result.stdout, r"frame #\d|Exception raised from|what\(\)|terminate")
        return result.stdout

    def test_every_flag_has_a_help_text_and_a_default(self):
        for name in PROGRAMS:
            flags = read_flags(self.help_of(name))
            self.assertGreater(len(flags), 3, f"cannot read the help of {name}")
            for flag, kind, description in flags:
                with self.subTest(program=name, flag=flag):
                    self.assertRegex(description, r"^\S.*\S$")
                    if flag == "--help":
                        continue
                    self.assertGreater(len(description), 8)
                    if kind:
                        self.assertRegex(kind, r"=\S|REQUIRED")
                    else:
                        self.assertRegex(description, r" \[(on|off)\]$")

    def test_every_training_option_has_a_flag(self):
        fields = training_fields()
        self.assertGreater(len(fields), 70)
        for name in ("mnist_controlnet", "mnist_dreambooth", "mnist_new_word", "mnist_style_lora", "mnist_text_to_image",
                     "train_mnist", "train_unconditional"):
            flags = {flag for flag, _, _ in read_flags(self.help_of(name))}
            missing = [field for field in fields if f"--{field}" not in flags and field not in NO_FLAGS]
            self.assertEqual(missing, [], f"{name}: add them to examples/train_flags.cpp, or say in NO_FLAGS why not")
            self.assertEqual([field for field in NO_FLAGS if f"--{field}" in flags or field not in fields], [])

    def test_an_unknown_flag_is_refused(self):
        self.assertEqual(set(ARGUMENTS), set(PROGRAMS))
        self.all_name_their_flag([(name, "--no_such_flag", "") for name in PROGRAMS])

    def test_a_value_of_another_type_is_refused(self):
        attempts = {}
        for name in PROGRAMS:
            for flag, kind, _ in read_flags(self.help_of(name)):
                if re.match("INT|UINT|FLOAT|BOOLEAN|TEXT:", kind) and flag.startswith("--"):
                    # Flags that several programs have are defined in one table.
                    attempts[flag] = (name, flag, "no_value_of_any_type")
        self.assertGreater(len(attempts), 60)
        self.all_name_their_flag(attempts.values())

    def test_a_value_out_of_range_is_refused(self):
        self.all_name_their_flag(OUT_OF_RANGE)

    def test_flags_that_need_a_package_or_a_service_are_refused_with_the_reason(self):
        for name in ("train_unconditional", "train_mnist", "train_latent_diffusion", "train_text_to_image",
                     "train_text_to_image_lora", "train_controlnet", "train_t2i_adapter", "train_dreambooth",
                     "train_dreambooth_lora"):
            for words, reason in (
                (["--push_to_hub"], "does not upload"),
                (["--hub_token", "x"], "does not upload"),
                (["--hub_model_id=x"], "does not upload"),
                (["--dataset_name", "mnist"], "does not download"),
                (["--use_8bit_adam"], "bitsandbytes"),
                (["--enable_xformers_memory_efficient_attention"], "xformers"),
                (["--report_to", "wandb"], "expected tensorboard"),
            ):
                message = self.fails(name, [*ARGUMENTS[name], *words])
                self.assertIn(words[0].split("=")[0], message)
                self.assertIn(reason, message)

    def test_a_device_that_is_not_there_is_refused_before_any_work(self):
        with_device = set()
        for name in PROGRAMS:
            if "--device" not in self.help_of(name):
                # The program computes only on the CPU and refuses the flag.
                message = self.fails(name, [*ARGUMENTS[name], "--device", "cuda"])
                self.assertRegex(message, r"not expected: .*--device")
                continue
            with_device.add(name)
            message = self.fails(name, [*ARGUMENTS[name], "--device", "tpu"])
            self.assertIn('--device: there is no device "tpu"; available: cpu', message)
            devices = ["cuda:7", "cuda:", "cuda:-1", "cuda:x", "cuda:99999999999999999999", "cpu:0", "meta"]
            if "cuda:0" not in message:
                devices.append("cuda")
            for device in devices:
                with self.subTest(program=name, device=device):
                    message = self.fails(name, [*ARGUMENTS[name], f"--device={device}"])
                    self.assertRegex(message, r"--device: there is no .*; available: cpu(, cuda:\d)*\n")
            self.assertEqual(list(self.folder.iterdir()), [], f"{name} began to work")
        self.assertEqual(with_device, {"diffusion_from_scratch", "mnist_controlnet", "mnist_dreambooth", "mnist_new_word",
                                       "mnist_style_lora", "mnist_text_to_image", "sample", "textual_inversion",
                                       "train_autoencoder", "train_controlnet",
                                       "train_dreambooth", "train_dreambooth_lora", "train_instruct_pix2pix",
                                       "train_latent_diffusion", "train_mnist", "train_t2i_adapter",
                                       "train_text_to_image", "train_text_to_image_lora", "train_unconditional"})

    def test_errors_of_libtorch_have_no_stack_trace(self):
        for name, arguments in TOO_LARGE.items():
            with self.subTest(program=name):
                message = self.fails(name, arguments)
                self.assertTrue(message.startswith(f"{name}: "), message)
                self.assertLess(message.count("\n"), 4, message)

    def test_every_program_runs_in_the_shared_wrapper(self):
        mains = 0
        for path in sorted(SOURCES.rglob("*.cpp")):
            for line in re.findall(r"^int main\(.*", path.read_text(), re.MULTILINE):
                mains += 1
                self.assertRegex(line, r'^int main\(int argc, char\*\* argv\) \{ return run_program\("'
                                 + path.stem + r'", run, argc, argv\); \}$')
        self.assertEqual(mains, len(PROGRAMS))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
