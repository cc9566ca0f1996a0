#!/usr/bin/env python3
"""train_text_to_image on a tiny Stable Diffusion folder and a few pictures: train_text_to_image_test.py PROGRAM"""
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures
from script_flags import flags_of

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class TrainTextToImage(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"
        make_captioned_pictures(self.folder / "pictures")

    def run_program(self, *arguments, code=0, model=MODEL):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", self.out, "--train_batch_size", 4, "--seed", 0,
                 *arguments]
        for flag, value in (("--resolution", 16), ("--train_data_dir", "pictures")):
            if flag not in arguments:
                words += [flag, value]
        result = subprocess.run([PROGRAM, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=300)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def test_a_folder_becomes_a_pipeline_folder(self):
        self.run_program("--num_train_epochs", 2, "--center_crop", "--random_flip", "--use_ema", "--checkpointing_steps", 4,
                         "--validation_prompts", "a red cat", "a blue dog", "--validation_epochs", 1, "--snr_gamma", 5,
                         "--gradient_checkpointing", "--noise_offset", 0.1)
        index = json.loads((self.out / "model_index.json").read_text())
        self.assertEqual(index["_class_name"], "StableDiffusionPipeline")
        self.assertEqual(index["scheduler"], ["diffusers", "PNDMScheduler"])
        self.assertEqual(index["text_encoder"], ["transformers", "CLIPTextModel"])
        self.assertEqual(index["safety_checker"], [None, None])
        for name in ("unet", "vae", "text_encoder"):
            self.assertTrue((self.out / name / "config.json").exists(), name)
        self.assertTrue((self.out / "tokenizer/tokenizer_config.json").exists())
        self.assertEqual((self.out / "vae/diffusion_pytorch_model.safetensors").stat().st_size,
                         (MODEL / "vae/diffusion_pytorch_model.safetensors").stat().st_size)
        final = (self.out / WEIGHTS).read_bytes()
        # The average is published; the checkpoint holds both.
        self.assertNotEqual(final, (self.out / "checkpoint-4" / WEIGHTS).read_bytes())
        self.assertTrue((self.out / "checkpoint-4/unet_ema/diffusion_pytorch_model.safetensors").exists())
        self.assertEqual(sorted(path.name for path in (self.out / "previews").iterdir()),
                         ["validation-2.png", "validation-4.png"])
        # The folder is one to train from.
        text = self.run_program("--max_train_steps", 1, "--overwrite_output_dir", "--train_text_encoder", "--prediction_type",
                                "v_prediction", "--scale_lr", "--proportion_empty_prompts", 0.5,
                                model=shutil.copytree(self.out, self.folder / "copy"))
        self.assertIn("8 images", text)
        scheduler = json.loads((self.out / "scheduler/scheduler_config.json").read_text())
        self.assertEqual(scheduler["prediction_type"], "v_prediction")
        self.assertNotEqual((self.out / "text_encoder/model.safetensors").read_bytes(),
                            (MODEL / "text_encoder/model.safetensors").read_bytes())

    def test_a_training_is_resumed(self):
        arguments = ["--max_train_steps", 4, "--checkpointing_steps", 2, "--lr_scheduler", "linear", "--lr_warmup_steps", 1]
        self.run_program(*arguments)
        whole = (self.out / WEIGHTS).read_bytes()
        shutil.rmtree(self.out / "checkpoint-4")
        shutil.rmtree(self.out / "unet")
        self.run_program(*arguments, "--resume_from_checkpoint", "latest")
        self.assertEqual((self.out / WEIGHTS).read_bytes(), whole)

    def weights_with(self, *arguments):
        self.run_program("--max_train_steps", 2, "--overwrite_output_dir", *arguments)
        return (self.out / WEIGHTS).read_bytes()

    def test_pictures_are_resized_with_the_filter_of_the_script(self):
        default = self.weights_with()
        self.assertEqual(self.weights_with("--image_interpolation_mode", "lanczos"), default)
        self.assertNotEqual(self.weights_with("--image_interpolation_mode", "bilinear"), default)

    def test_another_vae_is_used_and_saved(self):
        vae = shutil.copytree(MODEL / "vae", self.folder / "vae")
        config = json.loads((vae / "config.json").read_text())
        (vae / "config.json").write_text(json.dumps({**config, "scaling_factor": 0.5}))
        default = self.weights_with()
        self.assertNotEqual(self.weights_with("--pretrained_vae_model_name_or_path", vae), default)
        self.assertEqual(json.loads((self.out / "vae/config.json").read_text())["scaling_factor"], 0.5)

    def test_a_prediction_type_that_the_script_does_not_train_is_refused(self):
        model = shutil.copytree(MODEL, self.folder / "model")
        path = model / "scheduler/scheduler_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "_class_name": "DDIMScheduler",
                                    "prediction_type": "sample"}))
        index = model / "model_index.json"
        index.write_text(json.dumps({**json.loads(index.read_text()), "scheduler": ["diffusers", "DDIMScheduler"]}))
        text = self.run_program("--max_train_steps", 1, model=model, code=1)
        self.assertIn('prediction_type of the scheduler is "sample"', text)
        self.run_program("--max_train_steps", 1, "--prediction_type", "epsilon", model=model)
        # The code is that of CLI11 for a value out of range.
        self.assertIn("--prediction_type", self.run_program("--prediction_type", "sample", code=105))

    def test_every_flag_of_the_scripts_is_taken_or_refused_by_name(self):
        text = subprocess.run([PROGRAM, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
        for script in ("train_text_to_image", "train_text_to_image_sdxl"):
            for flag in flags_of(script):
                self.assertRegex(text, rf"{flag}\b(?!_)", script)

    def test_mistakes_are_named_before_the_training(self):
        make_captioned_pictures(self.folder / "no_captions", columns=())
        make_captioned_pictures(self.folder / "masked", columns=("text", "mask"))
        broken = shutil.copytree(MODEL, self.folder / "broken")
        shutil.rmtree(broken / "vae")
        for arguments, part in (
            (["--train_data_dir", "nowhere"], "nowhere"),
            (["--train_data_dir", "no_captions"], "text"),
            (["--caption_column", "title"], "title"),
            (["--train_data_dir", "masked", "--mask_column", "mask"], "--mask_column needs an inpainting UNet"),
            (["--validation_epochs", 1], "--validation_epochs needs --validation_prompts"),
            (["--validation_steps", 1], "--validation_steps needs --validation_prompts"),
            (["--revision", "main"], "--revision is not supported: the program reads a local folder"),
            (["--dream_training"], "--dream_training is not supported"),
            (["--enable_npu_flash_attention"], "--enable_npu_flash_attention is not supported"),
            (["--pretrained_vae_model_name_or_path", "nowhere"], "nowhere"),
            (["--resolution", 15, "--max_train_steps", 1], "multiples of 2"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        self.assertIn('the folder of component "vae" is missing', self.run_program(model=broken, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
