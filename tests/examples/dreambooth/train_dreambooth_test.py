#!/usr/bin/env python3
"""train_dreambooth and train_dreambooth_lora on tiny Stable Diffusion folders:
train_dreambooth_test.py PROGRAM LORA_PROGRAM"""
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_inpainting_folder, write_png
from program_case import ProgramCase
from script_flags import flags_of

LORA_PROGRAM = pathlib.Path(sys.argv.pop(2)).resolve()
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
MODEL = pathlib.Path(__file__).resolve().parents[2] / "golden/tiny_stable_diffusion"
XL_MODEL = MODEL.with_name("tiny_stable_diffusion_xl")
LORA = "pytorch_lora_weights.safetensors"
PRIOR = ("--with_prior_preservation", "--class_data_dir", "class", "--class_prompt", "cat")


class TrainDreamBooth(ProgramCase):
    def setUp(self):
        super().setUp()
        for i in range(3):
            write_png(self.folder / f"one/{i}.png", 9 * i)

    def run_program(self, *arguments, code=0, program=PROGRAM, model=MODEL, out=None):
        defaults = {"--pretrained_model_name_or_path": model, "--output_dir": out or self.out, "--seed": 0, "--resolution": 16,
                    "--instance_data_dir": "one", "--instance_prompt": "a red cat", "--train_batch_size": 2}
        words = [word for flag, value in defaults.items() if flag not in arguments for word in (flag, value)]
        return self.run_in_folder(program, [*words, *arguments], code)

    def class_images(self):
        return sorted(path.name for path in (self.folder / "class").iterdir())

    def losses(self):
        rows = [line.split(",") for line in (self.out / "metrics.csv").read_text().splitlines()]
        return [float(row[rows[0].index("loss")]) for row in rows[1:]]

    def test_class_images_are_generated_once(self):
        write_png(self.folder / "class/given.png", 3)
        text = self.run_program(*PRIOR, "--num_class_images", 4, "--sample_batch_size", 2, "--max_train_steps", 2,
                                "--logging_steps", 1)
        self.assertIn('class has 1 class images, generating 3 of "cat"', text)
        self.assertIn("3 instance images, 4 class images", text)
        names = self.class_images()
        self.assertEqual(names.pop(), "given.png")
        self.assertTrue(all(re.fullmatch(rf"{i + 1}-[0-9a-f]{{40}}\.jpg", name) for i, name in enumerate(names)), names)
        self.assertTrue(all((self.folder / "class" / name).read_bytes()[:2] == b"\xff\xd8" for name in names))
        self.assertTrue((self.out / "model_index.json").exists())
        self.assertTrue((self.out / "unet/diffusion_pytorch_model.safetensors").exists())
        unweighted = self.losses()

        text = self.run_program(*PRIOR, "--num_class_images", 4, "--max_train_steps", 2, "--logging_steps", 1,
                                "--prior_loss_weight", 0.25, "--overwrite_output_dir")
        self.assertNotIn("generating", text)
        self.assertEqual(len(self.class_images()), 4)
        self.assertLess(self.losses()[0], unweighted[0])

    def test_a_training_resumes_and_shows_pictures(self):
        flags = (*PRIOR, "--num_class_images", 2, "--checkpointing_steps", 2, "--train_text_encoder", "--offset_noise")
        self.run_program(*flags, "--max_train_steps", 4, "--validation_prompt", "a red cat", "--validation_steps", 2,
                         "--num_validation_images", 2)
        self.assertEqual(sorted(path.name for path in (self.out / "previews").iterdir()),
                         ["validation-2.png", "validation-4.png"])
        parts = self.folder / "parts"
        self.run_program(*flags, "--max_train_steps", 2, out=parts)
        self.run_program(*flags, "--max_train_steps", 4, "--resume_from_checkpoint", "latest", out=parts)
        for name in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
            self.assertEqual((parts / name).read_bytes(), (self.out / name).read_bytes(), name)

    def test_two_processes_train_as_one(self):
        # Each process draws its own dropout.
        model = shutil.copytree(MODEL, self.folder / "model")
        config = json.loads((model / "unet/config.json").read_text())
        (model / "unet/config.json").chmod(0o644)
        (model / "unet/config.json").write_text(json.dumps(config | {"dropout": 0.0}))
        # The second batch of an epoch has one instance image, and the first process none.
        words = ["--pretrained_model_name_or_path", model, "--instance_data_dir", "one", "--instance_prompt", "a red cat", *PRIOR,
                 "--num_class_images", 4, "--resolution", 16, "--seed", 0, "--max_train_steps", 4, "--logging_steps", 1,
                 "--train_text_encoder", "--lr_warmup_steps", 0, "--learning_rate", 1e-4, "--device", "cpu"]
        together = [*words, "--train_batch_size", 1, "--output_dir", self.out]
        codes, outputs = self.run_processes(PROGRAM, together, together)
        self.assertEqual(codes, [0, 0], outputs)
        self.assertIn('generating 4 of "cat"', outputs[0])
        self.assertEqual(len(self.class_images()), 4)
        alone = self.folder / "alone"
        self.run_in_folder(PROGRAM, [*words, "--train_batch_size", 2, "--output_dir", alone])
        self.assert_close(self.column(self.out, "loss"), self.column(alone, "loss"), 1e-5)
        self.assertEqual(len(self.column(alone, "loss")), 4)

    def test_adapters(self):
        flags = (*PRIOR, "--num_class_images", 2, "--checkpointing_steps", 2, "--train_text_encoder", "--rank", 3,
                 "--text_encoder_lr", 1e-3, "--gradient_checkpointing", "--output_kohya_format")
        text = self.run_program(*flags, "--max_train_steps", 4, program=LORA_PROGRAM)
        self.assertIn("LoRA adapters with", text)
        data = (self.out / LORA).read_bytes()
        header = json.loads(data[8:8 + struct.unpack("<Q", data[:8])[0]])
        metadata = json.loads(header.pop("__metadata__")["lora_adapter_metadata"])
        self.assertEqual((metadata["unet.r"], metadata["unet.lora_alpha"], metadata["text_encoder.r"]), (3, 3, 3))
        self.assertEqual({name.split(".")[0] for name in header}, {"unet", "text_encoder"})
        kohya = (self.out / "pytorch_lora_weights_kohya.safetensors").read_bytes()
        self.assertIn(b"lora_unet_", kohya)
        self.assertIn(b"lora_te_text_model_", kohya)
        parts = self.folder / "parts"
        self.run_program(*flags, "--max_train_steps", 2, out=parts, program=LORA_PROGRAM)
        self.run_program(*flags, "--max_train_steps", 4, "--resume_from_checkpoint", "latest", out=parts, program=LORA_PROGRAM)
        self.assertEqual((parts / LORA).read_bytes(), data)

    def test_stable_diffusion_xl(self):
        self.run_program(*PRIOR, "--num_class_images", 1, "--max_train_steps", 1, "--train_text_encoder", "--use_dora",
                         "--prior_generation_precision", "fp32", "--repeats", 2, "--validation_prompt", "a cat",
                         "--num_validation_images", 1, program=LORA_PROGRAM, model=XL_MODEL)
        self.assertEqual([path.name for path in (self.out / "previews").iterdir()], ["validation-1.png"])
        self.assertTrue((self.out / LORA).exists())
        self.assertEqual(len(self.class_images()), 1)

    def test_the_defaults_are_those_of_the_scripts(self):
        common = (("resolution", "512"), ("train_batch_size", "4"), ("num_epochs,--num_train_epochs", "1"),
                  ("prior_loss_weight", "1"), ("num_class_images", "100"), ("sample_batch_size", "4"),
                  ("checkpointing_steps", "500"), ("lr_warmup_steps", "500"), ("max_grad_norm", "1"),
                  ("num_validation_images", "4"), ("adam_weight_decay", "0.01"), ("lr_scheduler", "constant"))
        for program, own in ((PROGRAM, (("output_dir", "dreambooth-model"), ("learning_rate", "5e-06"),
                                        ("validation_steps", "100"))),
                             (LORA_PROGRAM, (("output_dir", "lora-dreambooth-model"), ("learning_rate", "0.0005"),
                                             ("rank", "4"), ("validation_epochs", "50")))):
            text = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
            for flag, value in (*common, *own):
                self.assertRegex(text, rf"--{flag} .*[=\[]{value}\b", program)

    def test_every_flag_of_the_scripts_is_taken_or_refused_by_name(self):
        for program, scripts in ((PROGRAM, ["train_dreambooth"]),
                                 (LORA_PROGRAM, ["train_dreambooth_lora", "train_dreambooth_lora_sdxl"])):
            text = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
            for script in scripts:
                for flag in flags_of(script):
                    self.assertRegex(text, rf"{flag}\b(?!_)", script)

    def test_mistakes_are_named_before_the_first_step(self):
        (self.folder / "empty").mkdir()
        (self.folder / "named").mkdir()
        (self.folder / "named/metadata.jsonl").write_text("{}")
        prior = ("--with_prior_preservation", "--class_data_dir", "class")
        for arguments, part in (
            (prior, "--with_prior_preservation needs --class_prompt"),
            (["--with_prior_preservation", "--class_prompt", "cat"], "--with_prior_preservation needs --class_data_dir"),
            (["--class_prompt", "cat"], "--class_prompt needs --with_prior_preservation"),
            (["--prior_loss_weight", 2], "--prior_loss_weight needs --with_prior_preservation"),
            (["--instance_data_dir", "empty"], "no PNG or JPEG files"),
            (["--instance_data_dir", "none"], "there is no such folder"),
            ([*PRIOR, "--instance_data_dir", "empty"], "no PNG or JPEG files"),
            (["--instance_prompt", ""], "--instance_prompt is empty"),
            (["--with_prior_preservation", "--class_data_dir", "named", "--class_prompt", "cat"], "named by a metadata file"),
            (["--train_text_encoder", "--pre_compute_text_embeddings"], "exclude each other"),
            (["--validation_steps", 1], "--validation_steps needs --validation_prompt"),
            (["--tokenizer_name", "none"], "none"),
            (["--tokenizer_max_length", 12], "--tokenizer_max_length is not supported"),
        ):
            for program in (PROGRAM, LORA_PROGRAM):
                self.assertIn(part, self.run_program(*arguments, code=1, program=program), arguments)
        for program, arguments, part in (
            (PROGRAM, ["--offset_noise", "--noise_offset", 0.2], "--offset_noise and --noise_offset"),
            (PROGRAM, ["--validation_scheduler", "DDPMScheduler"], "--validation_scheduler needs --validation_prompt"),
            (PROGRAM, ["--skip_save_text_encoder"], "--skip_save_text_encoder is not supported"),
            (LORA_PROGRAM, ["--output_kohya_format", "--use_dora"], "--output_kohya_format and --use_dora"),
            (LORA_PROGRAM, ["--text_encoder_lr", 1], "--text_encoder_lr needs --train_text_encoder"),
            (LORA_PROGRAM, ["--validation_epochs", 1], "--validation_epochs needs --validation_prompt"),
            (LORA_PROGRAM, ["--do_edm_style_training"], "--do_edm_style_training is not supported"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1, program=program))
        inpainting = make_inpainting_folder(MODEL, self.folder / "inpainting")
        self.assertIn("one for inpainting", self.run_program(code=1, model=inpainting))
        self.assertFalse((self.folder / "class").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
