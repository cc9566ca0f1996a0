#!/usr/bin/env python3
"""mnist_dreambooth on a few small images: mnist_dreambooth_test.py PROGRAM MNIST_TEXT_TO_IMAGE"""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from digit_case import DigitCase

FEW = ["--num_images", 2]  # the test data has two sevens
PRIOR = ["--with_prior_preservation", "--num_class_images", 6]
UNET = "unet/diffusion_pytorch_model.safetensors"


class MnistDreamBooth(DigitCase):
    program = pathlib.Path(sys.argv[1]).resolve()
    text_to_image = pathlib.Path(sys.argv[2]).resolve()

    def count(self, folder):
        path = self.folder / folder
        return len(list(path.glob("*.png"))) if path.exists() else 0

    def test_a_pipeline_is_written_with_and_without_class_images(self):
        for out, words, class_images in (("plain", [], 0), ("prior", PRIOR, 6)):
            text = self.train(out, "--max_train_steps", 3, *FEW, *words)
            index = json.loads((self.folder / out / "model_index.json").read_text())
            self.assertEqual(index["_class_name"], "StableDiffusionPipeline")
            self.assertEqual(self.count(f"{out}/instance_images"), 2)
            self.assertEqual(self.count(f"{out}/class_images"), class_images)
            self.assertEqual('drawing 6 images of "a handwritten seven"' in text, class_images > 0)
            self.assertTrue((self.folder / out / "samples.png").exists())
            for when in ("before", "after"):
                for prompt in ("a handwritten seven", "a handwritten sks seven"):
                    self.assertRegex(text, rf'  {when} the training, "{prompt}": plain sevens \d+\.\d %, bold')
        # The class images take part in the training.
        self.assertNotEqual((self.folder / "plain" / UNET).read_bytes(), (self.folder / "prior" / UNET).read_bytes())

    def test_a_training_is_resumed(self):
        self.expect_same_training_after_a_resume(UNET, *FEW, *PRIOR)

    def test_images_of_an_earlier_training_are_not_used(self):
        other = self.folder / "other/instance_images"
        other.mkdir(parents=True)
        (other / "9.png").write_bytes(b"")
        self.assertIn("has 3 files, expected 2 images", self.train("other", *FEW, code=1))

    def test_mistakes_are_named_before_the_training(self):
        self.expect_mistakes(
            (["--pretrained_model_name_or_path", "idx", *FEW], "expected a folder that mnist_text_to_image wrote"),
            (["--num_images", 3], "--num_images needs 3 images of the digit 7, but there are 2"),
            ([*FEW, "--num_class_images", 6], "--num_class_images needs --with_prior_preservation"),
            ([*FEW, "--prior_loss_weight", 1], "--prior_loss_weight needs --with_prior_preservation"),
        )


if __name__ == "__main__":
    unittest.main(verbosity=2, argv=sys.argv[:1])
