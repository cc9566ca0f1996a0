#!/usr/bin/env python3
"""Tests that the program sample generates images with saved pipelines: sample_test.py PROGRAM"""
import pathlib
import shutil
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import write_png
from program_case import ProgramCase

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
UNCONDITIONAL = GOLDEN / "tiny_ddpm_pipeline"
STABLE_DIFFUSION = GOLDEN / "tiny_stable_diffusion"


def size_of(png):
    """Returns (width, height)."""
    return struct.unpack(">II", png.read_bytes()[16:24])


class Sample(ProgramCase):
    def run_program(self, model, *arguments, code=0):
        words = ["--model", model, "--num_inference_steps", 2, *arguments]
        return self.run_in_folder(PROGRAM, words, code, timeout=120)

    def test_unconditional_pipelines(self):
        drawn = {}
        for words in ([], ["--scheduler", "ddpm"], ["--scheduler", "ddim"], ["--scheduler", "DDIMScheduler", "--eta", 1],
                      ["--scheduler", "euler"], ["--scheduler", "ddim", "--seed", 1]):
            self.run_program(UNCONDITIONAL, "--num_images", 6, "--output", "new/grid.png", *words)
            # Six images of 12 x 8 pixels with a padding of 2.
            self.assertEqual(size_of(self.folder / "new/grid.png"), (6 * 14 + 2, 12))
            drawn[str(words)] = (self.folder / "new/grid.png").read_bytes()
        # DDIM with eta = 1 draws and adds the same noise as DDPM.
        self.assertEqual(drawn.pop("[]"), drawn["['--scheduler', 'ddpm']"])
        self.assertEqual(drawn.pop("['--scheduler', 'DDIMScheduler', '--eta', 1]"), drawn["['--scheduler', 'ddpm']"])
        self.assertEqual(len(set(drawn.values())), len(drawn))

    def test_one_picture_has_no_border_and_a_folder_takes_many(self):
        self.run_program(UNCONDITIONAL, "--num_images", 1)
        self.assertEqual(size_of(self.folder / "samples.png"), (12, 8))
        self.run_program(UNCONDITIONAL, "--num_images", 3, "--output", "many")
        self.assertEqual(sorted(path.name for path in (self.folder / "many").iterdir()), ["0.png", "1.png", "2.png"])

    def test_prompts(self):
        self.run_program(STABLE_DIFFUSION, "--prompt", "a cat", "--output", "cat.png")
        width, height = size_of(self.folder / "cat.png")
        cat = (self.folder / "cat.png").read_bytes()
        for i, words in enumerate((["--prompt", "a dog"], ["--prompt", "a cat", "--negative_prompt", "a dog"],
                                   ["--prompt", "a cat", "--guidance_scale", 1], ["--prompt", "a cat", "--scheduler", "ddim"])):
            self.run_program(STABLE_DIFFUSION, *words, "--output", f"{i}.png")
            self.assertNotEqual((self.folder / f"{i}.png").read_bytes(), cat, words)
        self.run_program(STABLE_DIFFUSION, "--prompt", "a cat", "--num_images", 2, "--output", "two.png")
        self.assertEqual(size_of(self.folder / "two.png"), (2 * (width + 2) + 2, height + 4))

    def test_an_image_to_start_from(self):
        write_png(self.folder / "start.png", 5)
        model = self.folder / "model"
        shutil.copytree(STABLE_DIFFUSION, model)
        self.run_program(model, "--prompt", "a cat", "--image", "start.png", "--output", "a.png")
        self.run_program(model, "--prompt", "a cat", "--image", "start.png", "--strength", 1, "--output", "b.png")
        self.assertNotEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())

    def test_flags_that_do_not_fit_the_pipeline(self):
        (self.folder / "other").mkdir()
        (self.folder / "other/model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
        for model, words, part in (
            (STABLE_DIFFUSION, [], "--prompt is missing"),
            (UNCONDITIONAL, ["--prompt", "x"], "--prompt needs Stable Diffusion, found a DDPMPipeline"),
            (UNCONDITIONAL, ["--guidance_scale", 2], "--guidance_scale needs"),
            (UNCONDITIONAL, ["--negative_prompt", "x"], "--negative_prompt needs --prompt"),
            (UNCONDITIONAL, ["--image", "x.png"], "--image needs --prompt"),
            (UNCONDITIONAL, ["--eta", 1], "--eta needs --scheduler ddim"),
            (UNCONDITIONAL, ["--scheduler", "best"], "expected one of: ddpm, ddim"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--strength", 0.5], "--strength needs --image"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--image", "none.png"], "none.png"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--eta", 1], "--eta needs"),
            (self.folder / "other", [], "KandinskyPipeline"),
            (self.folder / "nowhere", [], "nowhere"),
        ):
            self.assertIn(part, self.run_program(model, *words, code=1))
            self.assertFalse((self.folder / "samples.png").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
