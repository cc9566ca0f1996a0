#!/usr/bin/env python3
"""mnist_controlnet on a few small images: mnist_controlnet_test.py PROGRAM MNIST_TEXT_TO_IMAGE"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import write_idx

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
TEXT_TO_IMAGE = pathlib.Path(sys.argv.pop(1)).resolve()
TINY = ["--data_dir", "idx", "--train_batch_size", 8, "--eval_batch_size", 20, "--num_inference_steps", 2,
        "--validation_steps", 2]


class MnistControlNet(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        root = tempfile.TemporaryDirectory()
        cls.addClassCleanup(root.cleanup)
        cls.folder = pathlib.Path(root.name)
        write_idx(cls.folder / "idx", 24)
        cls.run_words(TEXT_TO_IMAGE, *TINY, "--resolution", 16, "--output_dir", "pipeline", "--vae_train_steps", 2,
                      "--max_train_steps", 2)  # fmt: skip

    @classmethod
    def run_words(cls, program, *words, code=0):
        result = subprocess.run([program, *map(str, words)], cwd=cls.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300)
        assert result.returncode == code, result.stdout
        return result.stdout

    def test_a_controlnet_folder_is_written(self):
        text = self.run_words(PROGRAM, *TINY, "--pretrained_model_name_or_path", "pipeline", "--output_dir", "out",
                              "--max_train_steps", 3)  # fmt: skip
        config = json.loads((self.folder / "out/config.json").read_text())
        self.assertEqual(config["_class_name"], "ControlNetModel")
        self.assertEqual(config["conditioning_channels"], 3)
        self.assertTrue((self.folder / "out/diffusion_pytorch_model.safetensors").exists())
        self.assertTrue((self.folder / "out/samples.png").exists())
        self.assertEqual(sorted(path.name for path in (self.folder / "out/previews").iterdir()),
                         ["samples-2.png", "samples-3.png"])
        for what in ("with the ControlNet", "without the ControlNet", "of the autoencoder"):
            share = float(re.search(rf"{what}: (\d+\.\d) %", text)[1])
            self.assertTrue(0 <= share <= 100)

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            (["--pretrained_model_name_or_path", "idx"], "expected a folder that mnist_text_to_image wrote"),
            (["--pretrained_model_name_or_path", "pipeline", "--data_dir", "nowhere"], "nowhere"),
            (["--pretrained_model_name_or_path", "pipeline", "--resolution", 12], "expected a multiple of 8"),
            (["--vae", "pipeline/vae"], "--vae"),
        ):
            code = 109 if part == "--vae" else 1
            self.assertIn(part, self.run_words(PROGRAM, *arguments, "--output_dir", "none", code=code))
        self.assertFalse((self.folder / "none").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
