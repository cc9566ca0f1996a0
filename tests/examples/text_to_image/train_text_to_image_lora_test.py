#!/usr/bin/env python3
"""train_text_to_image_lora on tiny Stable Diffusion folders, and sample with what it trained:
train_text_to_image_lora_test.py PROGRAM SAMPLE"""
import json
import pathlib
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures
from program_case import ProgramCase
from script_flags import flags_of

SAMPLE = pathlib.Path(sys.argv.pop(2)).resolve()
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
XL_MODEL = MODEL.with_name("tiny_stable_diffusion_xl")
LORA = "pytorch_lora_weights.safetensors"


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])


class TrainTextToImageLora(ProgramCase):
    def setUp(self):
        super().setUp()
        make_captioned_pictures(self.folder / "pictures")

    def run_program(self, *arguments, code=0, model=MODEL, out=None):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--seed", 0, "--resolution", 16,
                 "--train_data_dir", "pictures", "--train_batch_size", 4, *arguments]
        return self.run_in_folder(PROGRAM, words, code)

    def draw(self, *arguments, model=MODEL):
        self.run_in_folder(SAMPLE, ["--model", model, "--prompt", "a red cat", "--num_images", 1, "--num_inference_steps", 2,
                                    "--output", "drawn.png", *arguments], timeout=600)
        return (self.folder / "drawn.png").read_bytes()

    def test_a_lora_file_is_written_and_sampled_with(self):
        text = self.run_program("--num_train_epochs", 2, "--checkpointing_steps", 4, "--validation_prompt", "a red cat",
                                "--num_validation_images", 1, "--rank", 3, "--train_text_encoder", "--learning_rate", 0.1,
                                "--gradient_checkpointing", "--snr_gamma", 5)
        self.assertIn("LoRA adapters with", text)
        header = header_of(self.out / LORA)
        metadata = json.loads(header.pop("__metadata__")["lora_adapter_metadata"])
        self.assertEqual((metadata["unet.r"], metadata["unet.lora_alpha"], metadata["text_encoder.r"]), (3, 3, 3))
        self.assertEqual({name.split(".")[0] for name in header}, {"unet", "text_encoder"})
        self.assertTrue((self.out / "checkpoint-4/unet_lora" / LORA).exists())
        self.assertEqual(sorted(path.name for path in (self.out / "previews").iterdir()),
                         ["validation-2.png", "validation-4.png"])
        plain, adapted = self.draw(), self.draw("--lora", self.out)
        self.assertNotEqual(adapted, plain)
        self.assertEqual(self.draw("--lora", self.out, "--lora_scale", 0), plain)
        self.assertEqual(self.draw("--lora", self.out / LORA, self.out, "--lora_scale", 1, 0), adapted)

    def test_a_training_resumes(self):
        flags = ("--checkpointing_steps", 2, "--learning_rate", 1e-3)
        self.run_program("--max_train_steps", 4, *flags)
        parts = self.folder / "parts"
        self.run_program("--max_train_steps", 2, *flags, out=parts)
        self.run_program("--max_train_steps", 4, *flags, "--resume_from_checkpoint", "latest", out=parts)
        self.assertEqual((parts / LORA).read_bytes(), (self.out / LORA).read_bytes())

    def test_stable_diffusion_xl(self):
        self.run_program("--max_train_steps", 1, "--train_text_encoder", "--use_dora", "--lora_alpha", 8, model=XL_MODEL)
        names = header_of(self.out / LORA)
        self.assertIn("text_encoder_2", {name.split(".")[0] for name in names})
        self.assertTrue(any(name.endswith("lora_magnitude_vector") for name in names))
        self.draw("--lora", self.out, model=XL_MODEL)

    def test_the_defaults_are_those_of_the_script(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for flag, value in (("output_dir", "sd-model-finetuned-lora"), ("resolution", "512"), ("train_batch_size", "16"),
                            ("num_epochs,--num_train_epochs", "100"), ("learning_rate", "0.0001"), ("rank", "4"),
                            ("checkpointing_steps", "500"), ("max_grad_norm", "1"), ("validation_epochs", "1"),
                            ("num_validation_images", "4"), ("lr_warmup_steps", "500")):
            self.assertRegex(text, rf"--{flag} .*[=\[]{value}\b")

    def test_every_flag_of_the_scripts_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for script in ("train_text_to_image_lora", "train_text_to_image_lora_sdxl"):
            for flag in flags_of(script):
                self.assertRegex(text, rf"{flag}\b(?!_)", script)

    def test_mistakes_are_named(self):
        for arguments, part in (
            (["--validation_epochs", 1], "--validation_epochs needs --validation_prompt"),
            (["--caption_column", "title"], "title"),
            (["--debug_loss"], "--debug_loss is not supported"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        for arguments, part in (
            (["--lora", "nowhere", "--prompt", "a cat"], "nowhere"),
            (["--lora", "nowhere"], "--lora needs --prompt"),
            (["--lora_scale", 1, "--prompt", "a cat"], "--lora_scale needs --lora"),
        ):
            self.assertIn(part, self.run_in_folder(SAMPLE, ["--model", MODEL, *arguments], code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
