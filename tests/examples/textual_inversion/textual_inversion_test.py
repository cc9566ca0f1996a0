#!/usr/bin/env python3
"""textual_inversion on tiny Stable Diffusion folders and a few pictures: textual_inversion_test.py PROGRAM SAMPLE"""
import json
import pathlib
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
EMBEDS = "learned_embeds.safetensors"


class TextualInversion(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        for i in range(3):
            write_png(self.folder / f"pictures/{i}.png", 9 * i)

    def run_program(self, *arguments, code=0, out=None, model=MODEL, token="<toy>", word="cat"):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--resolution", 16,
                 "--train_batch_size", 2, "--seed", 0, "--train_data_dir", "pictures", "--placeholder_token", token,
                 "--initializer_token", word, "--learning_rate", 1e-2, *arguments]
        return self.run_words(PROGRAM, *words, code=code)

    def run_words(self, *words, code=0):
        result = subprocess.run(list(map(str, words)), cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, timeout=600)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def test_embeddings_and_a_pipeline_folder_are_written(self):
        text = self.run_program("--max_train_steps", 4, "--save_steps", 2, "--num_vectors", 2, "--checkpointing_steps", 4,
                                "--repeats", 2, "--gradient_checkpointing")
        self.assertIn("<toy> <toy>_1: 2 vectors", text)
        header, data = read_weights(self.out / EMBEDS)
        self.assertEqual(list(header), ["<toy>"])
        self.assertEqual(header["<toy>"]["shape"][0], 2)
        self.assertEqual((self.out / "learned_embeds-steps-4.safetensors").read_bytes(), (self.out / EMBEDS).read_bytes())
        self.assertNotEqual(read_weights(self.out / "learned_embeds-steps-2.safetensors")[1], data)
        self.assertEqual((self.out / "checkpoint-4/textual_inversion" / EMBEDS).read_bytes(),
                         (self.out / EMBEDS).read_bytes())
        self.assertEqual(json.loads((self.out / "model_index.json").read_text())["_class_name"], "StableDiffusionPipeline")
        # The folder has the tokens; the other folder gets them from the file.
        flags = ["--prompt", "a red <toy>", "--num_inference_steps", 2]
        self.run_words(SAMPLE, "--model", self.out, *flags, "--output", "a.png")
        self.run_words(SAMPLE, "--model", MODEL, "--textual_inversion", self.out, *flags, "--output", "b.png")
        self.assertEqual((self.folder / "a.png").read_bytes(), (self.folder / "b.png").read_bytes())
        text = self.run_words(SAMPLE, "--model", self.out, "--textual_inversion", self.out, *flags, code=1)
        self.assertIn("already has the token", text)

    def test_a_training_resumes(self):
        flags = ("--checkpointing_steps", 2, "--save_embeddings_only")
        self.run_program("--max_train_steps", 4, *flags)
        self.assertFalse((self.out / "model_index.json").exists())
        parts = self.folder / "parts"
        self.run_program("--max_train_steps", 2, *flags, out=parts)
        self.run_program("--max_train_steps", 4, *flags, "--resume_from_checkpoint", "latest", out=parts)
        self.assertEqual((parts / EMBEDS).read_bytes(), (self.out / EMBEDS).read_bytes())

    def test_previews_do_not_change_the_training(self):
        flags = ("--max_train_steps", 2, "--save_embeddings_only")
        self.run_program(*flags)
        seen = self.folder / "seen"
        self.run_program(*flags, "--validation_prompt", "a <toy>", "--num_validation_images", 1, "--validation_steps", 1,
                         out=seen)
        self.assertEqual((seen / EMBEDS).read_bytes(), (self.out / EMBEDS).read_bytes())
        self.assertEqual(sorted(path.name for path in (seen / "previews").iterdir()), ["validation-1.png", "validation-2.png"])

    def test_stable_diffusion_xl_and_styles(self):
        self.run_program("--max_train_steps", 1, "--learnable_property", "style", "--center_crop",
                         "--tokenizer_name", MODEL / "tokenizer", model=XL_MODEL)
        index = json.loads((self.out / "model_index.json").read_text())
        self.assertEqual(index["_class_name"], "StableDiffusionXLPipeline")

    def test_the_defaults_are_those_of_the_script(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag, value in (("output_dir", "text-inversion-model"), ("resolution", "512"), ("train_batch_size", "16"),
                            ("num_epochs,--num_train_epochs", "100"), ("max_train_steps", "5000"), ("learning_rate", "0.0001"),
                            ("save_steps", "500"), ("repeats", "100"), ("num_vectors", "1"), ("checkpointing_steps", "500"),
                            ("adam_weight_decay", "0.01"), ("learnable_property", "object"), ("max_grad_norm", "0"),
                            ("lr_scheduler", "constant"), ("num_validation_images", "4")):
            self.assertRegex(text, rf"--{flag} .*[=\[]{value}\b")

    def test_every_flag_of_the_script_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag in flags_of("textual_inversion"):
            self.assertRegex(text, rf"{flag}\b(?!_)")

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--num_vectors", 0], "--num_vectors"),
            (["--learnable_property", "shape"], "--learnable_property"),
            (["--repeats", 0], "--repeats"),
            (["--caption_column", "text"], "--caption_column is not supported"),
            (["--cache_text_embeddings"], "--cache_text_embeddings is not supported"),
            (["--no_safe_serialization"], "--no_safe_serialization is not supported"),
            (["--tokenizer_name", "nowhere"], "nowhere"),
            (["--num_validation_images", 1], "--num_validation_images needs --validation_prompt"),
        ):
            result = subprocess.run(
                list(map(str, [PROGRAM, "--pretrained_model_name_or_path", MODEL, "--train_data_dir", "pictures",
                               "--placeholder_token", "<toy>", "--initializer_token", "cat", "--resolution", 16, *arguments])),
                cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
            self.assertNotEqual(result.returncode, 0)
            self.assertIn(part, result.stdout)
        self.assertIn("already has the token \"cat</w>\"", self.run_program(code=1, token="cat</w>"))
        self.assertIn("which has 2 tokens", self.run_program(code=1, word="red cat"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
