#!/usr/bin/env python3
"""train_controlnet on a tiny Stable Diffusion folder and a few pictures: train_controlnet_test.py PROGRAM"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures
from script_flags import flags_of

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class TrainControlNet(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        make_captioned_pictures(self.folder / "pictures", ("text", "conditioning_image"))

    def run_program(self, *arguments, code=0, out=None):
        words = ["--pretrained_model_name_or_path", MODEL, "--output_dir", out or self.out, "--resolution", 16,
                 "--train_batch_size", 4, "--seed", 0, "--train_data_dir", "pictures", *arguments]
        result = subprocess.run([PROGRAM, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def config(self, folder):
        return json.loads((folder / "config.json").read_text())

    def test_a_controlnet_folder_is_written(self):
        text = self.run_program("--num_train_epochs", 2, "--checkpointing_steps", 4, "--proportion_empty_prompts", 0.5,
                                "--gradient_checkpointing", "--learning_rate", 1e-3)
        self.assertIn("ControlNetModel with", text)
        self.assertEqual(self.config(self.out)["_class_name"], "ControlNetModel")
        weights = (self.out / WEIGHTS).read_bytes()
        self.assertEqual(weights, (self.out / "checkpoint-4/controlnet" / WEIGHTS).read_bytes())
        # A training goes on from the folder.
        more = self.folder / "more"
        self.run_program("--controlnet_model_name_or_path", self.out, "--max_train_steps", 1, "--learning_rate", 0, out=more)
        self.assertEqual((more / WEIGHTS).read_bytes(), weights)

    def test_pictures_are_resized_with_the_filter_of_the_script(self):
        weights = []
        for i, flags in enumerate(([], ["--image_interpolation_mode", "bilinear"], ["--image_interpolation_mode", "lanczos"])):
            out = self.folder / str(i)
            self.run_program("--max_train_steps", 2, "--learning_rate", 1e-3, *flags, out=out)
            weights.append((out / WEIGHTS).read_bytes())
        self.assertEqual(weights[0], weights[1])
        self.assertNotEqual(weights[0], weights[2])

    def test_every_flag_of_the_scripts_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for script in ("train_controlnet", "train_controlnet_sdxl"):
            for flag in flags_of(script):
                self.assertRegex(text, rf"{flag}\b(?!_)", script)

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--conditioning_image_column", "edges"], "edges"),
            (["--controlnet_model_name_or_path", "nowhere"], "nowhere"),
            (["--validation_prompt", "a cat"], "--validation_prompt is not supported"),
            (["--validation_steps", 1], "--validation_steps is not supported"),
            (["--controlnet_model_name_or_path", MODEL / "vae"], "vae"),
            (["--crops_coords_top_left_h", 8], "only the UNet of Stable Diffusion XL is told a crop"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
