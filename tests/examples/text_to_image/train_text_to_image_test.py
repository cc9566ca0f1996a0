#!/usr/bin/env python3
"""train_text_to_image on a tiny Stable Diffusion folder and a few pictures: train_text_to_image_test.py PROGRAM"""
import json
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_captioned_pictures, make_inpainting_folder, make_shards, write_png
from program_case import ProgramCase
from script_flags import flags_of

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
MODEL = GOLDEN / "tiny_stable_diffusion"
XL_MODEL = GOLDEN / "tiny_stable_diffusion_xl"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


class TrainTextToImage(ProgramCase):
    def setUp(self):
        super().setUp()
        make_captioned_pictures(self.folder / "pictures")

    def run_program(self, *arguments, code=0, model=MODEL, out=None):
        words = ["--pretrained_model_name_or_path", model, "--output_dir", out or self.out, "--seed", 0, *arguments]
        for flag, value in (("--resolution", 16), ("--train_data_dir", "pictures"), ("--train_batch_size", 4)):
            if flag not in arguments and not (flag == "--train_data_dir" and "--train_shards" in arguments):
                words += [flag, value]
        return self.run_in_folder(PROGRAM, words, code)

    def test_shards_have_captions(self):
        make_shards(self.folder / "shards")
        shards = ["--train_shards", "shards/s-{0..1}.tar"]
        text = self.run_program(*shards, "--max_train_steps", 2, "--random_flip")
        self.assertIn("2 shards", text)
        self.assertTrue((self.out / WEIGHTS).exists())
        for arguments, part in (([], "max_train_steps is not set"),
                                (["--caption_column", "text", "--max_train_steps", 1], "has no member .json"),
                                (["--max_train_samples", 4], "--max_train_samples needs --train_data_dir"),
                                (["--validation_prompt", "x"], "--num_train_samples, or a flag that counts in steps")):
            self.assertIn(part, self.run_program(*shards, "--overwrite_output_dir", *arguments, code=1))

    def test_pictures_in_buckets(self):
        for i in range(0, 8, 2):
            write_png(self.folder / f"pictures/{i}.png", 9 * i, height=20)
        self.run_program("--max_train_steps", 3, "--enable_bucketing", "--bucket_step", 8, "--gradient_accumulation_steps", 2,
                         "--center_crop")
        self.assertTrue((self.out / WEIGHTS).exists())

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

    def weights_of(self, model, *arguments):
        """Returns the weights after four steps, and the names of the previews."""
        out = self.folder / "previewed"
        shutil.rmtree(out, ignore_errors=True)
        self.run_program("--num_train_epochs", 2, "--learning_rate", 1e-2, "--use_ema", *arguments, model=model, out=out)
        previews = out / "previews"
        return (out / WEIGHTS).read_bytes(), sorted(path.name for path in previews.iterdir()) if previews.exists() else []

    def test_previews_do_not_change_the_training(self):
        make_captioned_pictures(self.folder / "masked", columns=("text", "mask"))
        inpainting = make_inpainting_folder(MODEL, self.folder / "inpainting")
        for name in ("a.png", "b.png"):
            write_png(self.folder / name, 7)
        write_png(self.folder / "mask.png", 0, gray=255)
        masked = ["--train_data_dir", "masked", "--mask_column", "mask"]
        epochs = ["validation-2.png", "validation-4.png"]
        for model, data, previews, names, columns in (
            (MODEL, [], ["--validation_prompts", "a red cat", "a blue dog", "--validation_epochs", 1], epochs, 2),
            # The defaults of the script of Stable Diffusion XL: each epoch, four pictures.
            (XL_MODEL, [], ["--validation_prompt", "a red cat"], epochs, 4),
            (inpainting, masked, ["--validation_prompt", "a red cat", "--validation_image", "a.png", "b.png",
                                  "--validation_mask", "mask.png", "mask.png", "--validation_steps", 3],
             ["validation-3.png", "validation-4.png"], 2),
        ):
            plain, none = self.weights_of(model, *data)
            self.assertEqual(none, [])
            self.assertEqual(self.weights_of(model, *data, *previews), (plain, names))
            first, last = ((self.folder / "previewed/previews" / name).read_bytes() for name in names)
            self.assertEqual(struct.unpack(">II", first[16:24]), (columns * 18 + 2, 20))
            self.assertNotEqual(first, last)

    def test_text_embeddings_are_cached(self):
        for model in (MODEL, XL_MODEL):
            arguments = [model, "--proportion_empty_prompts", 0.3, "--train_batch_size", 1, "--max_train_steps", 6]
            self.assertEqual(self.weights_of(*arguments, "--cache_text_embeddings"), self.weights_of(*arguments))

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
        inpainting = make_inpainting_folder(MODEL, self.folder / "inpainting")
        prompt = ["--train_data_dir", "masked", "--mask_column", "mask", "--validation_prompt", "x"]
        for arguments, part in (
            (["--validation_prompt", "x", "--validation_epochs", 1, "--validation_steps", 1], "exclude each other"),
            (["--validation_prompt", "x", "--validation_image", "a.png"], "--validation_image needs an inpainting UNet"),
            (["--validation_mask", "a.png"], "--validation_mask needs --validation_prompts"),
            (["--num_validation_images", 2], "--num_validation_images needs --validation_prompts"),
            (["--cache_text_embeddings", "--train_text_encoder"], "cache_text_embeddings and train_text_encoder"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
        for arguments, part in (
            ([], "--validation_prompt needs --validation_image"),
            (["y", "z", "--validation_image", "a.png", "b.png"], "--validation_prompt has 3 texts and --validation_image 2"),
            (["--validation_image", "a.png"], "--validation_mask has 0 files, expected one for each of the 1"),
            (["--validation_image", "none.png", "--validation_mask", "none.png"], "none.png"),
        ):
            self.assertIn(part, self.run_program(*prompt, *arguments, model=inpainting, code=1))
        self.assertIn('the folder of component "vae" is missing', self.run_program(model=broken, code=1))


if __name__ == "__main__":
    unittest.main(verbosity=2)
