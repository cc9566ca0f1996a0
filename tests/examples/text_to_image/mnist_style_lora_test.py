#!/usr/bin/env python3
"""mnist_style_lora on a few small images: mnist_style_lora_test.py PROGRAM MNIST_TEXT_TO_IMAGE"""
import json
import pathlib
import re
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from digit_case import DigitCase
from inputs import read_weights

ADAPTER = "pytorch_lora_weights.safetensors"


class MnistStyleLora(DigitCase):
    program = pathlib.Path(sys.argv[1]).resolve()
    text_to_image = pathlib.Path(sys.argv[2]).resolve()

    def test_an_adapter_and_a_fused_pipeline_are_written(self):
        text = self.train("out", "--max_train_steps", 3, "--validation_steps", 2, "--rank", 2)
        out = self.folder / "out"
        tensors, _ = read_weights(out / ADAPTER)
        self.assertTrue(all(name.startswith("unet.") for name in tensors))
        self.assertEqual({min(entry["shape"][:2]) for name, entry in tensors.items() if ".lora_A." in name}, {2})
        self.assertTrue(any(".conv1.lora_B." in name for name in tensors))
        index = json.loads((out / "fused/model_index.json").read_text())
        self.assertEqual(index["_class_name"], "StableDiffusionPipeline")
        # The fused UNet has the tensors of the folder, with other values.
        unet = "unet/diffusion_pytorch_model.safetensors"
        fused, before = read_weights(out / "fused" / unet), read_weights(self.folder / "pipeline" / unet)
        self.assertEqual(set(fused[0]), set(before[0]))
        self.assertNotEqual(fused[1], before[1])
        self.assertTrue((out / "samples.png").exists())
        self.assertEqual(sorted(path.name for path in (out / "previews").iterdir()), ["samples-2.png", "samples-3.png"])

        self.assertIn("20 images with 8 captions each", text)
        for row in ("no adapter", "weight 0.0", "weight 0.5", "weight 1.0", "fused"):
            self.assertRegex(text, rf"  {row} +new style +\d+\.\d %, with the digit +\d+\.\d %; old style")
        self.assertLess(float(re.search(r"largest difference of fused samples .*: (\S+)\n", text)[1]), 1e-3)
        self.assertEqual(text.count(": yes\n"), 5, text)
        self.assertNotIn(": NO\n", text)

    def test_a_training_is_resumed(self):
        self.expect_same_training_after_a_resume(ADAPTER, "--rank", 2)

    def test_mistakes_are_named_before_the_training(self):
        self.expect_mistakes(
            (["--pretrained_model_name_or_path", "idx"], "expected a folder that mnist_text_to_image wrote"),
            (["--data_dir", "nowhere"], "nowhere"),
            (["--resolution", 12], "expected a multiple of 8"),
            (["--num_images", 60], "--num_images needs 6 images of the digit 0, but there are 3"),
        )


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
