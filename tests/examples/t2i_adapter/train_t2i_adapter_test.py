#!/usr/bin/env python3
"""train_t2i_adapter on tiny Stable Diffusion folders and a few pictures: train_t2i_adapter_test.py PROGRAM"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures
from script_flags import flags_of

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
XL_MODEL = MODEL.with_name("tiny_stable_diffusion_xl")
WEIGHTS = "diffusion_pytorch_model.safetensors"


class TrainT2IAdapter(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        make_captioned_pictures(self.folder / "pictures", ("text", "conditioning_image"))

    def run_program(self, *arguments, code=0, out=None, model=MODEL, resolution=16):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--resolution", resolution,
                 "--train_batch_size", 4, "--seed", 0, "--train_data_dir", "pictures", *arguments]
        result = subprocess.run([PROGRAM, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=600)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def config(self, folder):
        return json.loads((folder / "config.json").read_text())

    def test_an_adapter_folder_is_written(self):
        text = self.run_program("--num_train_epochs", 2, "--checkpointing_steps", 4, "--proportion_empty_prompts", 0.5,
                                "--gradient_checkpointing", "--learning_rate", 1e-3)
        self.assertIn("T2IAdapter with", text)
        config = self.config(self.out)
        self.assertEqual(config["_class_name"], "T2IAdapter")
        self.assertEqual((config["in_channels"], config["num_res_blocks"]), (3, 2))
        weights = (self.out / WEIGHTS).read_bytes()
        self.assertEqual(weights, (self.out / "checkpoint-4/t2iadapter" / WEIGHTS).read_bytes())
        # A training goes on from the folder.
        more = self.folder / "more"
        self.run_program("--adapter_model_name_or_path", self.out, "--max_train_steps", 1, "--learning_rate", 0, out=more)
        self.assertEqual((more / WEIGHTS).read_bytes(), weights)

    def test_a_training_resumes(self):
        self.run_program("--max_train_steps", 4, "--checkpointing_steps", 2, "--learning_rate", 1e-3)
        parts = self.folder / "parts"
        flags = ("--checkpointing_steps", 2, "--learning_rate", 1e-3)
        self.run_program("--max_train_steps", 2, *flags, out=parts)
        self.run_program("--max_train_steps", 4, *flags, "--resume_from_checkpoint", "latest", out=parts)
        self.assertEqual((parts / WEIGHTS).read_bytes(), (self.out / WEIGHTS).read_bytes())

    def test_previews_do_not_change_the_training(self):
        arguments = ["--max_train_steps", 4, "--learning_rate", 1e-3, "--use_ema"]
        self.run_program(*arguments)
        plain = (self.out / WEIGHTS).read_bytes()
        pictures = ["--validation_image", "pictures/0.png", "pictures/1.png", "--validation_prompt", "a cat"]
        for words, names in (
            (["--validation_steps", 2, "--num_validation_images", 2], ["validation_0-2.png", "validation_0-4.png",
                                                                      "validation_1-2.png", "validation_1-4.png"]),
            # Every 100 steps and at the end, four pictures.
            ([], ["validation_0-4.png", "validation_1-4.png"]),
        ):
            out = self.folder / f"previews{len(words)}"
            self.run_program(*arguments, *pictures, *words, out=out)
            self.assertEqual((out / WEIGHTS).read_bytes(), plain)
            previews = out / "previews"
            self.assertEqual(sorted(path.name for path in previews.iterdir()), names)
            # The conditioning image at the resolution of the training, then the pictures.
            count = 1 + (2 if words else 4)
            self.assertEqual(struct.unpack(">II", (previews / names[0]).read_bytes()[16:24]), (count * 18 + 2, 20))

    def test_stable_diffusion_xl_has_its_own_adapter(self):
        self.run_program("--max_train_steps", 2, "--checkpointing_steps", 2, "--crops_coords_top_left_h", 3,
                         "--pretrained_vae_model_name_or_path", XL_MODEL / "vae", model=XL_MODEL)
        self.assertEqual(self.config(self.out)["adapter_type"], "full_adapter_xl")
        task = json.loads((self.out / "checkpoint-2/trainer_state.json").read_text())["task"]
        self.assertEqual((task["crops_coords_top_left_h"], task["crops_coords_top_left_w"]), (3, 0))

    def test_the_defaults_are_those_of_the_script(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag, value in (("output_dir", "t2iadapter-model"), ("resolution", "1024"), ("train_batch_size", "4"),
                            ("num_epochs,--num_train_epochs", "1"), ("learning_rate", "5e-06"), ("checkpointing_steps", "500"),
                            ("checkpoints_total_limit", "3"), ("max_grad_norm", "1"), ("adam_weight_decay", "0.01"),
                            ("adam_epsilon", "1e-08"), ("proportion_empty_prompts", "0"), ("dataloader_num_workers", "1"),
                            ("lr_scheduler", "constant"), ("conditioning_image_column", "conditioning_image")):
            self.assertRegex(text, rf"--{flag} .*[=\[]{value}\b")

    def test_every_flag_of_the_script_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag in flags_of("train_t2i_adapter_sdxl"):
            self.assertRegex(text, rf"{flag}\b(?!_)")

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--conditioning_image_column", "edges"], "edges"),
            (["--adapter_model_name_or_path", "nowhere"], "nowhere"),
            (["--adapter_model_name_or_path", MODEL / "vae"], "vae"),
            (["--pretrained_vae_model_name_or_path", "nowhere"], "nowhere"),
            (["--crops_coords_top_left_w", 2], "only the UNet of Stable Diffusion XL is told a crop"),
            (["--validation_prompt", "a cat"], "--validation_prompt needs --validation_image"),
            (["--validation_image", "a.png"], "--validation_image needs --validation_prompt"),
            (["--validation_prompt", "x", "--validation_image", "none.png"], "none.png"),
            (["--num_validation_images", 1], "--num_validation_images needs --validation_prompt"),
            (["--detection_resolution", 64], "--detection_resolution is not supported"),
            (["--validation_steps", 1], "--validation_steps needs --validation_prompt"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        self.assertIn("downscale_factor", self.run_program(code=1, resolution=18))
        self.assertIn("for which the library has no T2I-adapter pipeline",
                      self.run_program("--validation_prompt", "x", "--validation_image", "pictures/0.png", model=XL_MODEL, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
