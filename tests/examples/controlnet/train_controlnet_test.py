#!/usr/bin/env python3
"""train_controlnet on a tiny Stable Diffusion folder and a few pictures: train_controlnet_test.py PROGRAM"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures, write_png
from program_case import ProgramCase
from script_flags import flags_of

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
MODEL = GOLDEN / "tiny_stable_diffusion"
XL_MODEL = GOLDEN / "tiny_stable_diffusion_xl"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class TrainControlNet(ProgramCase):
    def setUp(self):
        super().setUp()
        make_captioned_pictures(self.folder / "pictures", ("text", "conditioning_image"))

    def run_program(self, *arguments, code=0, out=None, model=MODEL):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--resolution", 16,
                 "--seed", 0, "--train_data_dir", "pictures", *arguments]
        if "--train_batch_size" not in arguments:
            words += ["--train_batch_size", 4]
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

    def test_previews_do_not_change_the_training(self):
        for name in ("a.png", "b.png"):
            write_png(self.folder / name, 7)
        arguments = ["--max_train_steps", 4, "--learning_rate", 1e-3, "--use_ema"]
        self.run_program(*arguments)
        plain = (self.out / WEIGHTS).read_bytes()
        for words, names in (
            (["--validation_prompt", "a cat", "a dog", "--validation_image", "a.png", "b.png", "--validation_steps", 2,
              "--num_validation_images", 2], ["validation_0-2.png", "validation_0-4.png", "validation_1-2.png",
                                              "validation_1-4.png"]),
            # One image for all prompts; every 100 steps and at the end, four pictures.
            (["--validation_prompt", "a cat", "a dog", "--validation_image", "a.png"],
             ["validation_0-4.png", "validation_1-4.png"]),
            (["--validation_prompt", "a cat", "--validation_image", "a.png", "b.png"],
             ["validation_0-4.png", "validation_1-4.png"]),
        ):
            out = self.folder / f"out{len(words)}"
            self.run_program(*arguments, *words, out=out)
            self.assertEqual((out / WEIGHTS).read_bytes(), plain)
            previews = out / "previews"
            self.assertEqual(sorted(path.name for path in previews.iterdir()), names)
            # The conditioning image of 10 x 10 pixels, then the pictures.
            count = 1 + (2 if "--num_validation_images" in words else 4)
            self.assertEqual(struct.unpack(">II", (previews / names[0]).read_bytes()[16:24]), (count * 12 + 2, 14))
            shutil.rmtree(out)

    def test_text_embeddings_are_cached(self):
        arguments = ["--max_train_steps", 4, "--learning_rate", 1e-3, "--train_batch_size", 1, "--proportion_empty_prompts", 0.5]
        other = self.folder / "other"
        self.run_program(*arguments)
        self.run_program(*arguments, "--cache_text_embeddings", out=other)
        self.assertEqual((self.out / WEIGHTS).read_bytes(), (other / WEIGHTS).read_bytes())

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
            (["--validation_prompt", "a cat"], "--validation_prompt needs --validation_image"),
            (["--validation_image", "a.png"], "--validation_image needs --validation_prompt"),
            (["--validation_prompt", "x", "y", "--validation_image", "a.png", "b.png", "c.png"],
             "--validation_prompt has 2 texts and --validation_image 3 files; expected as many, or one of either"),
            (["--validation_prompt", "x", "--validation_image", "none.png"], "none.png"),
            (["--validation_steps", 1], "--validation_steps needs --validation_prompt"),
            (["--num_validation_images", 1], "--num_validation_images needs --validation_prompt"),
            (["--controlnet_model_name_or_path", MODEL / "vae"], "vae"),
            (["--crops_coords_top_left_h", 8], "only the UNet of Stable Diffusion XL is told a crop"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        self.assertIn("--validation_prompt needs Stable Diffusion 1.x or 2.x; found Stable Diffusion XL", self.run_program(
            "--validation_prompt", "x", "--validation_image", "a.png", model=XL_MODEL, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
