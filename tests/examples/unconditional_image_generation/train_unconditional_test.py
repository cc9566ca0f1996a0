#!/usr/bin/env python3
"""Tests train_unconditional with small images and IDX files: train_unconditional_test.py PROGRAM"""
import json
import pathlib
import signal
import subprocess
import sys
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_inputs, make_mixed_pictures, make_shards
from program_case import ProgramCase

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()


class TrainUnconditional(ProgramCase):
    def setUp(self):
        super().setUp()
        make_inputs(self.folder)

    def run_program(self, *arguments, code=0):
        words = ["--output_dir", self.out, "--train_batch_size", 4, "--eval_batch_size", 4, "--ddpm_num_inference_steps", 2,
                 "--lr_warmup_steps", 0, *arguments]
        return self.run_in_folder(PROGRAM, words, code)

    def index(self):
        return json.loads((self.out / "model_index.json").read_text())

    def config(self, name="unet/config.json"):
        return json.loads((self.out / name).read_text())

    def previews(self):
        return sorted(path.name for path in (self.out / "previews").iterdir())

    def test_pictures_become_a_pipeline_folder(self):
        self.run_program("--train_data_dir", "flat", "--model_config_name_or_path", "color", "--num_epochs", 2,
                         "--save_images_epochs", 1, "--random_flip", "--center_crop", "--use_ema")
        self.assertEqual(self.index()["_class_name"], "DDPMPipeline")
        self.assertEqual(self.config()["in_channels"], 3)
        self.assertEqual(self.config("scheduler/scheduler_config.json")["beta_schedule"], "linear")
        self.assertTrue((self.out / "unet/diffusion_pytorch_model.safetensors").exists())
        self.assertEqual(self.previews(), ["test_samples-3.png", "test_samples-6.png"])

    def test_idx_files_with_classes(self):
        text = self.run_program("--dataset", "mnist", "--data_dir", "idx", "--class_conditional", "--max_train_steps", 2,
                                "--model_config_name_or_path", "gray", "--prediction_type", "sample",
                                "--checkpointing_steps", 2)
        self.assertIn("12 images", text)
        self.assertEqual(self.config()["num_class_embeds"], 11)
        state = (self.out / "checkpoint-2/trainer_state.json").read_text()
        self.assertIn('"class_dropout_prob": 0.1', state)
        self.assertEqual(self.previews(), ["test_samples-2.png"])

    def test_shards_with_classes_resume_bit_for_bit(self):
        make_shards(self.folder / "shards")
        words = ["--train_shards", "shards/s-{0..1}.tar", "--model_config_name_or_path", "color", "--class_conditional",
                 "--num_classes", 3, "--shuffle_buffer_size", 4, "--random_flip", "--dataloader_num_workers", 2, "--seed", 0,
                 "--checkpointing_steps", 2, "--lr_scheduler", "constant"]
        text = self.run_program(*words, "--max_train_steps", 5)
        self.assertIn("2 shards", text)
        self.assertEqual(self.config()["num_class_embeds"], 4)
        self.assertEqual(self.previews(), ["test_samples-5.png"])
        whole = (self.out / "unet/diffusion_pytorch_model.safetensors").read_bytes()
        self.run_program(*words, "--max_train_steps", 2, "--overwrite_output_dir")
        state = (self.out / "checkpoint-2/trainer_state.json").read_text()
        self.assertIn("2 shards, shuffle_buffer_size 4", state)
        self.run_program(*words, "--max_train_steps", 5, "--resume_from_checkpoint", "latest")
        self.assertEqual((self.out / "unet/diffusion_pytorch_model.safetensors").read_bytes(), whole)

    def test_epochs_of_shards_and_mixed_pictures(self):
        make_shards(self.folder / "shards")
        self.run_program("--train_shards_path_or_url", "shards/s-{0..1}.tar", "--model_config_name_or_path", "color",
                         "--num_train_samples", 8, "--num_epochs", 2, "--save_images_epochs", 1)
        self.assertEqual(self.previews(), ["test_samples-2.png", "test_samples-4.png"])
        make_mixed_pictures(self.folder / "mixed")
        self.run_program("--train_data_dir", "mixed", "--model_config_name_or_path", "color", "--num_epochs", 1,
                         "--overwrite_output_dir", "--enable_bucketing", "--bucket_step", 4,
                         "--gradient_accumulation_steps", 2)
        self.assertTrue((self.out / "unet/diffusion_pytorch_model.safetensors").exists())

    def test_previews_and_saves_have_their_own_intervals(self):
        self.run_program("--train_data_dir", "flat", "--model_config_name_or_path", "color", "--num_epochs", 3,
                         "--save_images_epochs", 2, "--save_model_epochs", 1)
        self.assertEqual(self.previews(), ["test_samples-6.png", "test_samples-9.png"])

    def test_the_pipeline_is_saved_during_the_training(self):
        words = ["--output_dir", self.out, "--train_data_dir", "flat", "--model_config_name_or_path", "color",
                 "--train_batch_size", 4, "--eval_batch_size", 1, "--ddpm_num_inference_steps", 1, "--num_epochs", 10**6,
                 "--save_images_epochs", 10**6, "--save_model_epochs", 2, "--use_ema", "--checkpointing_steps", 0]
        process = subprocess.Popen([PROGRAM, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True)
        start = time.monotonic()
        while not (self.out / "model_index.json").exists():
            self.assertIsNone(process.poll(), "the training ended")
            self.assertLess(time.monotonic() - start, 120)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        text = process.communicate(timeout=600)[0]
        self.assertEqual(process.returncode, 128 + signal.SIGTERM, text)
        self.assertEqual(self.index()["unet"], ["diffusers", "UNet2DModel"])
        self.assertEqual(self.config()["sample_size"], 8)
        self.assertTrue((self.out / "unet/diffusion_pytorch_model.safetensors").exists())
        self.assertTrue((self.out / "scheduler/scheduler_config.json").exists())

    def test_two_processes_train_as_one(self):
        words = ["--train_data_dir", "flat", "--model_config_name_or_path", "color", "--max_train_steps", 4, "--seed", 3,
                 "--lr_warmup_steps", 0, "--eval_batch_size", 1, "--ddpm_num_inference_steps", 1, "--logging_steps", 1,
                 "--device", "cpu"]
        self.run_in_folder(PROGRAM, ["--output_dir", self.out, "--train_batch_size", 4, *words])
        together = ["--output_dir", self.folder / "together", "--train_batch_size", 2, *words]
        codes, outputs = self.run_processes(PROGRAM, together, together)
        self.assertEqual(codes, [0, 0], outputs)
        self.assertIn("UNet2DModel with", outputs[0])
        self.assertNotIn("UNet2DModel with", outputs[1])
        losses = self.column(self.out, "loss")
        self.assertEqual(len(losses), 4)
        self.assert_close(self.column(self.folder / "together", "loss"), losses, 1e-5)

    def test_a_mistake_in_one_process_ends_all(self):
        words = ["--output_dir", self.out, "--model_config_name_or_path", "color", "--device", "cpu", "--train_data_dir"]
        codes, outputs = self.run_processes(PROGRAM, [*words, "flat"], [*words, "missing"])
        self.assertEqual(codes, [1, 1], outputs)
        self.assertIn("train_unconditional: process 1 of 2 stopped: ", outputs[0])
        for output in outputs:
            self.assertIn("missing", output)

    def test_mistakes_are_named_before_the_training(self):
        for arguments, part in (
            ([], "--train_data_dir or --dataset"),
            (["--train_data_dir", "flat", "--dataset", "mnist"], "exclude each other"),
            (["--train_data_dir", "flat", "--data_dir", "idx"], "--data_dir"),
            (["--train_data_dir", "nowhere"], "nowhere"),
            (["--train_shards", "s.tar"], "s.tar: there is no such shard"),
            (["--train_shards", "s.tar", "--dataset", "mnist"], "exclude each other"),
            (["--train_shards", "s.tar", "--train_data_dir", "flat"], "exclude each other"),
            (["--train_shards", "s.tar", "--enable_bucketing"], "--enable_bucketing needs --train_data_dir"),
            (["--train_data_dir", "flat", "--bucket_step", 8], "--bucket_step needs --enable_bucketing"),
            (["--train_data_dir", "flat", "--num_train_samples", 8], "--num_train_samples needs --train_shards"),
            (["--train_data_dir", "flat", "--num_classes", 8], "--num_classes needs --train_shards"),
            (["--train_data_dir", "flat", "--class_conditional", "--resolution", 32], "no sub-folders"),
            (["--dataset", "mnist", "--data_dir", "idx", "--resolution", 28], "expected a multiple of 32"),
            (["--dataset", "mnist", "--data_dir", "idx", "--center_crop"], "--center_crop"),
            (["--dataset", "mnist", "--data_dir", "idx", "--class_dropout_prob", 0.1], "--class_conditional"),
            (["--dataset", "mnist", "--data_dir", "idx", "--model_config_name_or_path", "color"], "in_channels 3"),
            (["--train_data_dir", "flat", "--save_images_epochs", 1, "--validation_steps", 1], "exclude each other"),
            (["--train_data_dir", "flat", "--save_model_epochs", 1, "--validation_steps", 0], "--save_model_epochs"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
            self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
