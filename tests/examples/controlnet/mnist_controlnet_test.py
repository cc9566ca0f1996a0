#!/usr/bin/env python3
"""mnist_controlnet on a few small images: mnist_controlnet_test.py PROGRAM MNIST_TEXT_TO_IMAGE"""
import json
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from digit_case import DigitCase


class MnistControlNet(DigitCase):
    program = pathlib.Path(sys.argv[1]).resolve()
    text_to_image = pathlib.Path(sys.argv[2]).resolve()

    def test_a_controlnet_folder_is_written(self):
        text = self.train("out", "--max_train_steps", 3, "--validation_steps", 2)
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
            self.assertIn(part, self.run_words(self.program, *arguments, "--output_dir", "none", code=code))
        self.assertFalse((self.folder / "none").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
