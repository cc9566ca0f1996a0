#!/usr/bin/env python3
"""mnist_new_word on a few small images: mnist_new_word_test.py PROGRAM MNIST_TEXT_TO_IMAGE"""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from digit_case import DigitCase
from inputs import read_weights

EMBEDS = "learned_embeds.safetensors"
FEW = ["--num_images", 3]  # the test data has three zeros


class MnistNewWord(DigitCase):
    program = pathlib.Path(sys.argv[1]).resolve()
    text_to_image = pathlib.Path(sys.argv[2]).resolve()

    def test_a_word_is_written(self):
        text = self.train("out", "--max_train_steps", 3, *FEW)
        tensors, _ = read_weights(self.folder / "out" / EMBEDS)
        self.assertEqual({name: entry["shape"] for name, entry in tensors.items()}, {"<nought>": [1, 64]})
        self.assertFalse((self.folder / "out/model_index.json").exists())
        self.assertTrue((self.folder / "out/samples.png").exists())
        self.assertTrue((self.folder / "out/previews/samples-3.png").exists())
        self.assertRegex(text, r'20 samples of "<nought>" that show the digit 0: \d+\.\d % before .*, \d+\.\d % after')
        self.assertEqual(text.count(": yes\n"), 2, text)
        self.assertNotIn(": NO\n", text)

    def test_a_training_is_resumed(self):
        self.expect_same_training_after_a_resume(EMBEDS, *FEW)

    def test_mistakes_are_named_before_the_training(self):
        self.expect_mistakes(
            (["--pretrained_model_name_or_path", "idx", *FEW], "expected a folder that mnist_text_to_image wrote"),
            (["--num_images", 4], "--num_images needs 4 images of the digit 0, but there are 3"),
            ([*FEW, "--use_ema"], "use_ema"),
        )


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
