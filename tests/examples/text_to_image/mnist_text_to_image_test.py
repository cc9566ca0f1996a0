#!/usr/bin/env python3
"""mnist_text_to_image on a few small images: mnist_text_to_image_test.py PROGRAM"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import write_idx

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
WEIGHTS = "diffusion_pytorch_model.safetensors"


class MnistTextToImage(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        write_idx(self.folder / "idx", 24)

    def run_program(self, *arguments, code=0, out=None):
        words = ["--train_batch_size", 8, "--eval_batch_size", 20, "--num_inference_steps", 2,
                 "--output_dir", out or self.out, *arguments]
        for flag, value in (("--data_dir", "idx"), ("--resolution", 16), ("--validation_steps", 0)):
            if flag not in arguments:
                words += [flag, value]
        result = subprocess.run([PROGRAM, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=600)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def test_a_pipeline_folder_is_written(self):
        text = self.run_program("--vae_train_steps", 3, "--max_train_steps", 3, "--validation_steps", 2)
        index = json.loads((self.out / "model_index.json").read_text())
        self.assertEqual(index["_class_name"], "StableDiffusionPipeline")
        self.assertEqual(index["scheduler"], ["diffusers", "DDIMScheduler"])
        for name in ("unet", "vae", "text_encoder"):
            self.assertTrue((self.out / name / "config.json").exists(), name)
        # The program makes the vocabulary.
        vocabulary = json.loads((self.out / "tokenizer/vocab.json").read_text())
        self.assertIn("handwritten</w>", vocabulary)
        self.assertTrue((self.out / "tokenizer/merges.txt").read_text().count("\n") > 20)
        # The pipeline has the trained autoencoder, with the measured scale.
        config = json.loads((self.out / "vae/config.json").read_text())
        self.assertNotEqual(config["scaling_factor"], 0.18215)
        self.assertEqual((self.out / "vae" / WEIGHTS).read_bytes(), (self.out / "autoencoder/vae" / WEIGHTS).read_bytes())
        self.assertEqual(sorted(path.name for path in (self.out / "previews").iterdir()),
                         ["samples-2.png", "samples-3.png"])
        self.assertTrue((self.out / "autoencoder/previews/reconstructions-3.png").exists())
        self.assertTrue((self.out / "samples.png").exists())
        self.assertIn("  a handwritten zero ... a handwritten nine\n", text)
        self.assertRegex(text, r"classified as the digit of their prompt: \d+\.\d %")

    def test_a_training_is_resumed(self):
        arguments = ["--vae_train_steps", 2, "--max_train_steps", 4, "--checkpointing_steps", 2]
        self.run_program(*arguments)
        weights = [self.out / "unet" / WEIGHTS, self.out / "text_encoder/model.safetensors", self.out / "vae" / WEIGHTS]
        whole = [path.read_bytes() for path in weights]
        shutil.rmtree(self.out / "checkpoint-4")
        for path in weights:
            shutil.rmtree(path.parent)
        text = self.run_program(*arguments, "--resume_from_checkpoint", "latest")
        self.assertNotIn("autoencoder: 2 steps", text)
        self.assertEqual([path.read_bytes() for path in weights], whole)
        # A folder with a finished training is kept.
        self.assertIn("overwrite_output_dir", self.run_program(*arguments, code=1))

    def test_an_autoencoder_can_be_given(self):
        self.run_program("--vae_train_steps", 2, "--max_train_steps", 1)
        other = self.folder / "other"
        self.run_program("--vae", self.out / "autoencoder/vae", "--max_train_steps", 1, "--seed", 5, out=other)
        self.assertFalse((other / "autoencoder").exists())
        self.assertEqual((other / "vae" / WEIGHTS).read_bytes(), (self.out / "vae" / WEIGHTS).read_bytes())

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--data_dir", "nowhere"], "nowhere"),
            (["--resolution", 20], "--resolution is 20, expected a multiple of 8"),
            (["--vae", "nowhere"], "nowhere"),
            (["--vae", "idx", "--vae_train_steps", 2], "--vae_train_steps has no effect with --vae"),
            (["--noise_offset", -1], "noise_offset"),
            (["--push_to_hub"], "--push_to_hub is not supported"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
