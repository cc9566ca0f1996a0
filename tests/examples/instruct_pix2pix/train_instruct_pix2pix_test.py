#!/usr/bin/env python3
"""train_instruct_pix2pix on a tiny Stable Diffusion folder and a few pairs: train_instruct_pix2pix_test.py PROGRAM SAMPLE"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import read_weights, write_png
from script_flags import flags_of

PROGRAM, SAMPLE = (pathlib.Path(word).resolve() for word in sys.argv[1:3])
del sys.argv[1:3]
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
XL_MODEL = MODEL.with_name("tiny_stable_diffusion_xl")
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class TrainInstructPix2Pix(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        rows = []
        for i in range(4):
            write_png(self.folder / f"pairs/before/{i}.png", 9 * i)
            write_png(self.folder / f"pairs/after/{i}.png", 5 * i)
            rows.append({"input_image": f"before/{i}.png", "edited_image": f"after/{i}.png", "edit_prompt": "a red cat"})
        self.write_rows(rows)
        self.rows = rows

    def write_rows(self, rows):
        (self.folder / "pairs/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")

    def run_program(self, *arguments, code=0, out=None, model=MODEL, rate=1e-3):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--resolution", 16,
                 "--train_batch_size", 2, "--seed", 0, "--train_data_dir", "pairs", "--learning_rate", rate, *arguments]
        return self.run_words(PROGRAM, *words, code=code)

    def run_words(self, *words, code=0):
        result = subprocess.run(list(map(str, words)), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, timeout=600)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def test_a_pipeline_folder_is_written_and_edits_pictures(self):
        text = self.run_program("--max_train_steps", 4, "--conditioning_dropout_prob", 0.05, "--use_ema", "--random_flip",
                                "--checkpointing_steps", 4)
        self.assertIn("8 input channels", text)
        index = json.loads((self.out / "model_index.json").read_text())
        self.assertEqual(index["_class_name"], "StableDiffusionInstructPix2PixPipeline")
        header, _ = read_weights(self.out / WEIGHTS)
        self.assertEqual(header["conv_in.weight"]["shape"][1], 8)
        flags = ["--model", self.out, "--prompt", "a red cat", "--num_inference_steps", 2]
        image = ["--image", "pairs/before/1.png"]
        self.run_words(SAMPLE, *flags, *image, "--output", "a.png")
        self.run_words(SAMPLE, *flags, *image, "--image_guidance_scale", 3, "--output", "b.png")
        self.assertNotEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())
        self.assertEqual(struct.unpack(">II", (self.folder / "a.png").read_bytes()[16:24]), (10, 10))
        for more, part in (([], "--image is missing"), ([*image, "--strength", 0.5], "--strength has no effect"),
                           ([*image, "--mask", "pairs/before/1.png"], "--mask needs inpainting")):
            self.assertIn(part, self.run_words(SAMPLE, *flags, *more, code=1))
        text = self.run_words(SAMPLE, "--model", MODEL, "--prompt", "x", *image, "--image_guidance_scale", 2, code=1)
        self.assertIn("--image_guidance_scale needs an instruct-pix2pix folder", text)
        # A training goes on from the folder.
        more = self.folder / "more"
        self.run_program("--max_train_steps", 1, model=self.out, out=more, rate=0)
        self.assertEqual((more / WEIGHTS).read_bytes(), (self.out / WEIGHTS).read_bytes())

    def test_a_training_resumes(self):
        flags = ("--checkpointing_steps", 2, "--conditioning_dropout_prob", 0.2)
        self.run_program("--max_train_steps", 4, *flags)
        parts = self.folder / "parts"
        self.run_program("--max_train_steps", 2, *flags, out=parts)
        self.run_program("--max_train_steps", 4, *flags, "--resume_from_checkpoint", "latest", out=parts)
        self.assertEqual((parts / WEIGHTS).read_bytes(), (self.out / WEIGHTS).read_bytes())

    def test_previews_and_the_column_of_the_pictures(self):
        rows = [{"file_name": row["edited_image"], "before": row["input_image"], "text": "a cat"} for row in self.rows]
        self.write_rows(rows)
        self.run_program("--max_train_steps", 2, "--edited_image_column", "image", "--original_image_column", "before",
                         "--edit_prompt_column", "text", "--validation_prompt", "a red cat", "--val_image_url",
                         "pairs/before/0.png", "--num_validation_images", 1, "--validation_steps", 2)
        self.assertEqual([path.name for path in (self.out / "previews").iterdir()], ["validation_0-2.png"])

    def test_the_defaults_are_those_of_the_script(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag, value in (("output_dir", "instruct-pix2pix-model"), ("resolution", "256"), ("train_batch_size", "16"),
                            ("num_epochs,--num_train_epochs", "100"), ("learning_rate", "0.0001"),
                            ("original_image_column", "input_image"), ("edited_image_column", "edited_image"),
                            ("edit_prompt_column", "edit_prompt"), ("checkpointing_steps", "500"), ("max_grad_norm", "1"),
                            ("lr_scheduler", "constant"), ("num_validation_images", "4"), ("validation_epochs", "1")):
            self.assertRegex(text, rf"--{flag} .*[=\[]{value}\b")

    def test_every_flag_of_the_script_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag in flags_of("train_instruct_pix2pix"):
            self.assertRegex(text, rf"{flag}\b(?!_)")

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--original_image_column", "none"], "none"),
            (["--edit_prompt_column", "none"], "none"),
            (["--edited_image_column", "none"], "none"),
            (["--caption_column", "text"], "--caption_column is not supported"),
            (["--validation_prompt", "x"], "--validation_prompt needs --validation_image"),
            (["--validation_prompt", "x", "--val_image_url", "https://example.org/a.png"], "nothing is downloaded"),
            (["--validation_steps", 1], "--validation_steps needs --validation_prompt"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        self.assertIn("Stable Diffusion XL", self.run_program(code=1, model=XL_MODEL))
        (self.folder / "pairs/after/0.png").unlink()
        self.assertIn("after/0.png", self.run_program(code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
