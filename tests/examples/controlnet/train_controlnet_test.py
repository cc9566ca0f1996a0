#!/usr/bin/env python3
"""train_controlnet on a tiny Stable Diffusion folder and a few pictures: train_controlnet_test.py PROGRAM"""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures
from program_case import ProgramCase

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class TrainControlNet(ProgramCase):
    def setUp(self):
        super().setUp()
        make_captioned_pictures(self.folder / "pictures", ("text", "conditioning_image"))

    def run_program(self, *arguments, code=0, out=None):
        words = ["--pretrained_model_name_or_path", MODEL, "--output_dir", out or self.out, "--resolution", 16,
                 "--train_batch_size", 4, "--seed", 0, "--train_data_dir", "pictures", *arguments]
        return self.run_in_folder(PROGRAM, words, code)

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

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--conditioning_image_column", "edges"], "edges"),
            (["--controlnet_model_name_or_path", "nowhere"], "nowhere"),
            (["--validation_prompt", "a cat"], "--validation_prompt is not supported"),
            (["--validation_steps", 1], "--validation_steps is not supported"),
            (["--controlnet_model_name_or_path", MODEL / "vae"], "vae"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
