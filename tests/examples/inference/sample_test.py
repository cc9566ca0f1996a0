#!/usr/bin/env python3
"""Tests that the program sample generates images with saved pipelines: sample_test.py PROGRAM TRAIN_CONTROLNET

train_controlnet writes the ControlNets that are sampled with.
"""
import json
import pathlib
import shutil
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures, make_inpainting_folder, write_png
from program_case import ProgramCase

TRAIN_CONTROLNET = pathlib.Path(sys.argv.pop(2)).resolve()
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
UNCONDITIONAL = GOLDEN / "tiny_ddpm_pipeline"
STABLE_DIFFUSION = GOLDEN / "tiny_stable_diffusion"
STABLE_DIFFUSION_XL = GOLDEN / "tiny_stable_diffusion_xl"


def size_of(png):
    """Returns (width, height)."""
    return struct.unpack(">II", png.read_bytes()[16:24])


class Sample(ProgramCase):
    def run_program(self, model, *arguments, code=0):
        words = ["--model", model, *arguments]
        if "--num_inference_steps" not in arguments:
            words += ["--num_inference_steps", 2]
        return self.run_in_folder(PROGRAM, words, code, timeout=600)

    def draw(self, model, *arguments, output="drawn.png"):
        """Returns the content of the file that the program writes."""
        self.run_program(model, "--output", output, *arguments)
        return (self.folder / output).read_bytes()

    def train_controlnet(self, name, seed):
        """Trains a ControlNet far enough that its residuals have an effect."""
        if not (self.folder / "pictures").exists():
            make_captioned_pictures(self.folder / "pictures", ("text", "conditioning_image"))
        words = ["--pretrained_model_name_or_path", STABLE_DIFFUSION, "--train_data_dir", "pictures", "--resolution", 16,
                 "--output_dir", name, "--seed", seed, "--max_train_steps", 3, "--learning_rate", 0.1]
        self.run_in_folder(TRAIN_CONTROLNET, words, timeout=600)
        return self.folder / name

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

    def test_a_masked_picture_is_repainted(self):
        write_png(self.folder / "start.png", 5)
        for name, gray in (("keep.png", 0), ("repaint.png", 255)):
            write_png(self.folder / name, 0, gray)
        inpainting = make_inpainting_folder(STABLE_DIFFUSION, self.folder / "inpainting")
        image = ["--image", "start.png"]

        def drawn(model, prompt, mask, *words):
            return self.draw(model, "--prompt", prompt, *image, "--mask", mask, *words)

        # Without mask channels the kept part is that of the picture, whatever the prompt.
        self.assertEqual(drawn(STABLE_DIFFUSION, "a cat", "keep.png"), drawn(STABLE_DIFFUSION, "a dog", "keep.png"))
        self.assertEqual(size_of(self.folder / "drawn.png"), (16, 16))
        repainted = drawn(STABLE_DIFFUSION, "a cat", "repaint.png")
        self.assertNotEqual(repainted, drawn(STABLE_DIFFUSION, "a dog", "repaint.png"))
        self.assertNotEqual(repainted, drawn(STABLE_DIFFUSION, "a cat", "repaint.png", "--strength", 0.5))
        self.assertNotEqual(repainted, drawn(STABLE_DIFFUSION, "a cat", "keep.png"))
        # With them the UNet sees the mask.
        self.assertNotEqual(drawn(inpainting, "a cat", "repaint.png"), drawn(inpainting, "a cat", "keep.png"))
        self.assertNotEqual(drawn(inpainting, "a cat", "repaint.png"), repainted)
        index = json.loads((inpainting / "model_index.json").read_text())
        index["_class_name"] = "StableDiffusionInpaintPipeline"
        (inpainting / "model_index.json").write_text(json.dumps(index))
        drawn(inpainting, "a cat", "repaint.png", "--num_images", 2, "--scheduler", "ddim")
        self.assertEqual(size_of(self.folder / "drawn.png"), (2 * 18 + 2, 20))
        for words in ([], image):
            self.assertIn("--image and --mask are missing; the UNet has 9 input channels",
                          self.run_program(inpainting, "--prompt", "x", *words, code=1))
        self.assertIn("--controlnet needs a UNet with 4 input channels, found 9",
                      self.run_program(inpainting, "--prompt", "x", *image, "--controlnet", "net", code=1))
        self.assertIn("--mask needs Stable Diffusion 1.x or 2.x, found a StableDiffusionXLPipeline", self.run_program(
            STABLE_DIFFUSION_XL, "--prompt", "x", *image, "--mask", "keep.png", code=1))

    def test_controlnets(self):
        first, second = self.train_controlnet("first", 0), self.train_controlnet("second", 1)
        write_png(self.folder / "edges.png", 5)
        write_png(self.folder / "depth.png", 50)

        def drawn(*words, model=STABLE_DIFFUSION):
            return self.draw(model, "--prompt", "a cat", *words)

        one = drawn("--controlnet", first, "--image", "edges.png")
        self.assertEqual(size_of(self.folder / "drawn.png"), (10, 10))
        both = ["--controlnet", first, second, "--image", "edges.png", "depth.png"]
        pictures = {"one": one, "image": drawn("--controlnet", first, "--image", "depth.png"),
                    "net": drawn("--controlnet", second, "--image", "edges.png"),
                    "none": drawn("--controlnet", first, "--image", "edges.png", "--controlnet_conditioning_scale", 0),
                    "guess": drawn("--controlnet", first, "--image", "edges.png", "--guess_mode"), "both": drawn(*both)}
        self.assertEqual(len(set(pictures.values())), len(pictures))
        # A ControlNet with the scale 0 is not run.
        self.assertEqual(drawn(*both, "--controlnet_conditioning_scale", 1, 0), one)
        self.assertEqual(drawn(*both, "--controlnet_conditioning_scale", 0), pictures["none"])

        # A pipeline folder with a ControlNet of its own.
        folder = shutil.copytree(STABLE_DIFFUSION, self.folder / "controlled")
        (folder / "controlnet").mkdir()
        for name in ("config.json", "diffusion_pytorch_model.safetensors"):
            shutil.copy(first / name, folder / "controlnet" / name)
        index = json.loads((folder / "model_index.json").read_text())
        index.update(_class_name="StableDiffusionControlNetPipeline", controlnet=["diffusers", "ControlNetModel"])
        (folder / "model_index.json").write_text(json.dumps(index))
        self.assertEqual(drawn("--image", "edges.png", model=folder), one)
        self.assertEqual(drawn("--controlnet", second, "--image", "edges.png", model=folder), pictures["net"])
        for words, part in (([], "--image has 0 files, expected one for each of 1 ControlNets"),
                            (["--image", "edges.png", "--strength", 0.5], "--strength and ControlNets exclude each other"),
                            (["--image", "edges.png", "--mask", "edges.png"], "--mask and ControlNets exclude each other")):
            self.assertIn(part, self.run_program(folder, "--prompt", "x", *words, code=1))

    def test_stable_diffusion_xl(self):
        def drawn(*words):
            return self.draw(STABLE_DIFFUSION_XL, "--prompt", "a cat", *words)

        write_png(self.folder / "start.png", 5)
        image = ["--image", "start.png", "--num_inference_steps", 5]
        pictures = [drawn(), drawn("--guidance_scale", 1), drawn("--negative_prompt", "a dog"), drawn(*image),
                    drawn(*image, "--strength", 1)]
        self.assertEqual(len(set(pictures)), len(pictures))
        self.assertEqual(drawn("--guidance_scale", 5), pictures[0])
        self.assertEqual(drawn(*image, "--strength", 0.3), pictures[3])
        index = json.loads((STABLE_DIFFUSION_XL / "model_index.json").read_text())
        index.update(_class_name="StableDiffusionXLImg2ImgPipeline", requires_aesthetics_score=True)
        refiner = shutil.copytree(STABLE_DIFFUSION_XL, self.folder / "refiner")
        (refiner / "model_index.json").write_text(json.dumps(index))
        self.assertIn("--image is missing", self.run_program(refiner, "--prompt", "x", code=1))

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
            (STABLE_DIFFUSION, ["--prompt", "x", "--strength", 0, "--image", "x.png"], "--strength is 0"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--mask", "x.png"], "--mask needs --image"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--guess_mode"], "--guess_mode needs --controlnet"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet_conditioning_scale", 1],
             "--controlnet_conditioning_scale needs --controlnet"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--image", "a.png", "b.png"], "--image has 2 files, expected one"),
            (STABLE_DIFFUSION, ["--controlnet", "net"], "--controlnet needs --prompt"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "net"], "--image has 0 files, expected one for each of 1"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "a", "b", "--image", "a.png"], "--image has 1 files"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "net", "--image", "a.png", "--mask", "b.png"],
             "--mask and ControlNets exclude each other"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "net", "--image", "a.png", "--strength", 0.5],
             "--strength and ControlNets exclude each other"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "net", "--image", "a.png",
                                "--controlnet_conditioning_scale", 1, 2], "--controlnet_conditioning_scale has 2 values"),
            (STABLE_DIFFUSION, ["--prompt", "x", "--controlnet", "nowhere", "--image", "a.png"], "nowhere"),
            (STABLE_DIFFUSION_XL, ["--prompt", "x", "--controlnet", "net", "--image", "a.png"],
             "--controlnet needs Stable Diffusion 1.x or 2.x, found a StableDiffusionXLPipeline"),
            (UNCONDITIONAL, ["--guess_mode"], "--guess_mode needs Stable Diffusion"),
            (self.folder / "other", [], "KandinskyPipeline"),
            (self.folder / "nowhere", [], "nowhere"),
        ):
            self.assertIn(part, self.run_program(model, *words, code=1))
            self.assertFalse((self.folder / "samples.png").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
