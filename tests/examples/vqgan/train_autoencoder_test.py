#!/usr/bin/env python3
"""train_autoencoder on small pictures and IDX files: train_autoencoder_test.py PROGRAM"""
import json
import pathlib
import struct
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_inputs, make_shards
from program_case import ProgramCase

PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
# A model of 2 levels and a discriminator that images of 16 x 16 are large enough for.
TINY = ["--block_out_channels", 4, 8, "--layers_per_block", 1, "--norm_num_groups", 2, "--no_mid_block_add_attention"]
SMALL = [*TINY, "--resolution", 16]
WEIGHTS = "diffusion_pytorch_model.safetensors"
SMALL_DISC = ["--disc_num_layers", 2, "--disc_ndf", 4, "--disc_start", 1]
ALEX = {"net.slice1.0": (64, 3, 11), "net.slice2.3": (192, 64, 5), "net.slice3.6": (384, 192, 3),
        "net.slice4.8": (256, 384, 3), "net.slice5.10": (256, 256, 3)}


def write_lpips(path):
    """AlexNet's LPIPS with equal weights everywhere."""
    header, data = {}, b""
    shapes = {f"{name}.weight": [out, channels, kernel, kernel] for name, (out, channels, kernel) in ALEX.items()}
    shapes |= {f"{name}.bias": [out] for name, (out, _, _) in ALEX.items()}
    shapes |= {f"lin{number}.model.1.weight": [1, out, 1, 1] for number, (out, _, _) in enumerate(ALEX.values())}
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        begin = len(data)
        data += struct.pack("<f", 0.01) * count
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class TrainAutoencoder(ProgramCase):
    def setUp(self):
        super().setUp()
        make_inputs(self.folder)

    def run_program(self, *arguments, code=0):
        words = ["--output_dir", self.out, "--train_batch_size", 4, "--logging_steps", 1, *arguments]
        return self.run_in_folder(PROGRAM, words, code)

    def rows(self):
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    def config(self, name):
        return json.loads((self.out / name / "config.json").read_text())

    def test_shards(self):
        make_shards(self.folder / "shards")
        text = self.run_program("--train_shards", "shards/s-{0..1}.tar", *SMALL, *SMALL_DISC, "--max_train_steps", 2,
                                "--perceptual_weight", 0, "--latent_channels", 2, "--validation_steps", 2)
        self.assertIn("2 shards", text)
        self.assertTrue((self.out / "previews/reconstructions-2.png").exists())

    def test_pictures_become_a_vae_folder(self):
        text = self.run_program("--train_data_dir", "flat", *SMALL, *SMALL_DISC, "--max_train_steps", 3, "--perceptual_weight", 0,
                                "--latent_channels", 2, "--checkpointing_steps", 2, "--validation_steps", 3)
        self.assertIn("AutoencoderKL with", text)
        config = self.config("vae")
        self.assertEqual(config["_class_name"], "AutoencoderKL")
        self.assertEqual((config["in_channels"], config["latent_channels"], config["block_out_channels"]), (3, 2, [4, 8]))
        self.assertTrue((self.out / "vae/diffusion_pytorch_model.safetensors").exists())
        self.assertEqual(self.config("checkpoint-2/discriminator")["ndf"], 4)
        self.assertTrue((self.out / "previews/reconstructions-3.png").exists())
        self.assertNotIn("discriminator/loss", self.rows()[0])
        self.assertGreater(self.rows()[1]["discriminator/loss"], 0)
        self.assertNotIn("validation_loss", self.rows()[-1])
        # The training goes on from its checkpoint, and another one from the model.
        self.run_program("--train_data_dir", "flat", *SMALL, *SMALL_DISC, "--max_train_steps", 4, "--perceptual_weight", 0,
                         "--latent_channels", 2, "--resume_from_checkpoint", "latest", "--validation_steps", 4,
                         "--validation_data_dir", "flat")
        self.assertGreater(self.rows()[-1]["validation/psnr"], 0)
        self.assertNotIn("validation/lpips", self.rows()[-1])
        trained = self.out / "vae"
        self.out = self.folder / "again"
        self.run_program("--train_data_dir", "flat", "--pretrained_model_name_or_path", trained, "--resolution", 16,
                         "--disc_factor", 0, "--perceptual_weight", 0, "--max_train_steps", 1, "--no_learn_logvar")
        self.assertEqual(self.config("vae")["latent_channels"], 2)
        self.assertFalse((self.out / "discriminator").exists())
        self.assertFalse((self.out / "logvar").exists())

    def test_two_processes_train_a_discriminator_as_one(self):
        words = ["--train_data_dir", "flat", *SMALL, *SMALL_DISC, "--max_train_steps", 4, "--perceptual_weight", 0, "--seed", 3,
                 "--latent_channels", 2, "--logging_steps", 1, "--validation_steps", 0, "--device", "cpu"]
        together = [*words, "--train_batch_size", 2, "--output_dir", self.out]
        codes, outputs = self.run_processes(PROGRAM, together, together)
        self.assertEqual(codes, [0, 0], outputs)
        alone = self.folder / "alone"
        self.run_in_folder(PROGRAM, [*words, "--train_batch_size", 4, "--output_dir", alone])
        for name in ("loss", "d_weight", "g_loss", "discriminator/loss"):
            # The discriminator begins at step 1.
            numbers = self.column(alone, name)[1:]
            self.assertNotIn(0, numbers, name)
            self.assert_close(self.column(self.out, name)[1:], numbers, 1e-4 * max(map(abs, numbers)))

    def test_idx_files_become_a_vqvae_folder_with_lpips(self):
        write_lpips(self.folder / "alex.safetensors")
        text = self.run_program("--model", "vq", "--dataset", "mnist", "--data_dir", "idx", *SMALL, *SMALL_DISC, "--num_vq_embeddings", 8,
                         "--lpips_weights", "alex.safetensors", "--pixel_loss", "l2", "--disc_loss", "vanilla", "--use_actnorm",
                         "--max_train_steps", 3, "--validation_steps", 3)
        config = self.config("vqvae")
        self.assertEqual(config["_class_name"], "VQModel")
        self.assertEqual((config["in_channels"], config["latent_channels"], config["num_vq_embeddings"]), (1, 3, 8))
        rows = self.rows()
        self.assertGreater(rows[-1]["validation_loss"], 0)
        self.assertGreater(rows[-1]["validation/psnr"], 0)
        self.assertGreater(rows[-1]["validation/lpips"], 0)
        self.assertTrue(1 <= rows[-1]["validation/perplexity"] <= 8)
        self.assertRegex(text, r"step 3: validation loss [0-9.]+, rec_loss [0-9.]+, psnr [0-9.]+, lpips [0-9.]+")
        self.assertIn("validation/lpips", (self.out / "metrics.csv").read_text().splitlines()[0])
        self.assertGreater(rows[0]["p_loss"], 0)
        self.assertTrue(1 <= rows[0]["perplexity"] <= 8)

    def test_a_classifier_of_the_dataset_stands_in_for_lpips(self):
        for data, channels in ((("--dataset", "mnist", "--data_dir", "idx"), 1), (("--train_data_dir", "classes"), 3)):
            with self.subTest(data=data):
                flags = [*data, *SMALL, "--disc_factor", 0, "--lpips_weights", "dataset-classifier", "--checkpointing_steps", 2,
                         "--seed", 0, "--learning_rate", 1e-3]
                self.out = self.folder / f"whole-{channels}"
                text = self.run_program(*flags, "--max_train_steps", 4, "--validation_steps", 4)
                self.assertIn("training the classifier whose features LPIPS compares: 2 steps", text)
                rows = self.rows()
                self.assertGreater(rows[0]["p_loss"], 0)
                self.assertEqual("validation/lpips" in rows[-1], channels == 1)
                task = json.loads((self.out / "checkpoint-4/trainer_state.json").read_text())["task"]
                self.assertEqual(task["loss"]["lpips"], "dataset-classifier")
                whole = (self.out / "vae" / WEIGHTS).read_bytes()

                # A resumed training reads the classifier that it began with.
                self.out = self.folder / f"parts-{channels}"
                self.run_program(*flags, "--max_train_steps", 2)
                text = self.run_program(*flags, "--max_train_steps", 4, "--resume_from_checkpoint", "latest")
                self.assertNotIn("training the classifier", text)
                self.assertEqual((self.out / "vae" / WEIGHTS).read_bytes(), whole)

    def test_a_config_file_describes_the_model(self):
        (self.folder / "model.json").write_text(json.dumps(
            {"_class_name": "AutoencoderKL", "in_channels": 1, "out_channels": 1, "block_out_channels": [4, 4],
             "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2, "norm_num_groups": 2}))
        self.run_program("--train_data_dir", "flat", "--model_config_name_or_path", "model.json", "--resolution", 16,
                         *SMALL_DISC, "--perceptual_weight", 0, "--max_train_steps", 1)
        self.assertEqual(self.config("vae")["in_channels"], 1)

    def test_flags_without_effect_are_refused(self):
        data = ["--train_data_dir", "flat"]
        quick = ["--perceptual_weight", 0, "--max_train_steps", 1]
        for arguments, part in (
            ([*quick], "expected --train_data_dir or --dataset"),
            ([*data, "--dataset", "mnist", *quick], "exclude each other"),
            ([*data, "--data_dir", "idx", *quick], "--data_dir is the folder of the IDX files"),
            (["--dataset", "mnist", "--data_dir", "idx", "--center_crop", *quick], "--center_crop needs"),
            ([*data], "there is no --lpips_weights"),
            ([*data, *SMALL, "--disc_factor", 0, "--lpips_weights", "dataset-classifier", "--max_train_steps", 1],
             "needs images with labels of two classes or more; found 0 classes in flat"),
            ([*data, *quick, "--codebook_weight", 2], "--codebook_weight needs --model vq"),
            ([*data, *quick, "--model", "vq", "--kl_weight", 1], "--kl_weight needs --model kl"),
            ([*data, *quick, "--disc_factor", 0, "--disc_ndf", 8], "--disc_ndf has no effect with --disc_factor 0"),
            ([*data, *quick, "--num_validation_images", 2], "--num_validation_images needs --validation_steps"),
            ([*data, *quick, "--validation_data_dir", "flat"], "--validation_data_dir needs --validation_steps"),
            (["--dataset", "mnist", "--data_dir", "idx", *quick, "--validation_steps", 1, "--validation_data_dir", "flat"],
             "--validation_data_dir needs --train_data_dir"),
            ([*data, *quick, "--model_config_name_or_path", "a", "--latent_channels", 2], "--latent_channels has no effect"),
            ([*data, *quick, "--model_config_name_or_path", "a", "--pretrained_model_name_or_path", "b"], "exclude each other"),
            ([*data, *quick, *TINY, "--resolution", 15], "--resolution is 15, expected a multiple of 2"),
            ([*data, *SMALL, "--lpips_weights", "none.safetensors", "--max_train_steps", 1], "none.safetensors"),
            ([*data, *SMALL, *quick], "height and width of 24 or more"),
            ([*data, *quick, "--cpu_data_parallel", 2, *SMALL], "cpu_data_parallel is 2"),
            ([*data, *quick, "--push_to_hub"], "--push_to_hub is not supported"),
        ):
            with self.subTest(arguments=arguments):
                self.assertIn(part, self.run_program(*arguments, code=1))
                self.assertFalse((self.out / "vae").exists())

    def test_images_of_another_number_of_channels_are_refused(self):
        (self.folder / "model.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
        text = self.run_program("--dataset", "mnist", "--data_dir", "idx", "--model_config_name_or_path", "model.json",
                                "--perceptual_weight", 0, code=1)
        self.assertIn("the model has in_channels 3, expected 1", text)


if __name__ == "__main__":
    unittest.main()
