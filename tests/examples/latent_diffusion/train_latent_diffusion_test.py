#!/usr/bin/env python3
"""train_latent_diffusion on small pictures: train_latent_diffusion_test.py PROGRAM GOLDEN_FOLDER TRAIN_AUTOENCODER"""
import json
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from inputs import make_inputs, make_shards
from program_case import ProgramCase

TRAIN_AUTOENCODER = pathlib.Path(sys.argv.pop(3)).resolve()
GOLDEN = pathlib.Path(sys.argv.pop(2)).resolve()
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
# A VQModel with 3 image and 2 latent channels, and an AutoencoderKL with 4 latent channels.
VQ, KL = GOLDEN / "tiny_ldm_pipeline", GOLDEN / "tiny_stable_diffusion"


class TrainLatentDiffusion(ProgramCase):
    def setUp(self):
        super().setUp()
        make_inputs(self.folder)

    def write_unet(self, in_channels, out_channels, classes=None, attends=False):
        cross = "CrossAttn" if attends else ""
        config = {"_class_name": "UNet2DConditionModel" if attends else "UNet2DModel", "sample_size": 4,
                  "in_channels": in_channels, "out_channels": out_channels, "block_out_channels": [8], "layers_per_block": 1,
                  "down_block_types": [cross + "DownBlock2D"], "up_block_types": [cross + "UpBlock2D"],
                  "norm_num_groups": 2, "num_class_embeds": classes, "attention_head_dim": 2}
        if attends:
            config["cross_attention_dim"] = 16
        (self.folder / "unet.json").write_text(json.dumps(config))

    def write_metadata(self):
        rows = [{"file_name": f"{i}.png", "text": "a red cat", "edges": f"{i}.png", "hole": f"{i}.png"} for i in range(12)]
        (self.folder / "flat/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run_program(self, *arguments, code=0):
        defaults = {"--output_dir": self.out, "--train_batch_size": 4, "--eval_batch_size": 2, "--num_inference_steps": 2,
                    "--lr_warmup_steps": 0, "--max_train_steps": 3, "--checkpointing_steps": 0}
        words = [word for flag, value in defaults.items() if flag not in arguments for word in (flag, value)]
        return self.run_in_folder(PROGRAM, [*words, *arguments], code)

    def config(self, name):
        return json.loads((self.out / name).read_text())

    def test_without_conditioning_a_folder_of_ldm_pipeline(self):
        self.write_unet(2, 2)
        arguments = ["--train_data_dir", "flat", "--vae", VQ, "--model_config_name_or_path", "unet.json", "--use_ema",
                     "--center_crop", "--random_flip", "--latent_cache", "cache", "--scale_by_std"]
        text = self.run_program(*arguments)
        self.assertIn("12 images, latents 2 x 4 x 4", text)
        self.assertIn("24 images encoded", text)
        self.assertEqual(self.config("model_index.json")["_class_name"], "LDMPipeline")
        self.assertEqual(self.config("model_index.json")["vqvae"], ["diffusers", "VQModel"])
        self.assertNotEqual(self.config("vqvae/config.json")["scaling_factor"], 0.18215)
        self.assertFalse(self.config("scheduler/scheduler_config.json")["clip_sample"])
        self.assertTrue((self.out / "unet/diffusion_pytorch_model.safetensors").exists())
        self.assertTrue((self.out / "vqvae/diffusion_pytorch_model.safetensors").exists())
        self.assertTrue((self.out / "previews/samples-3.png").exists())
        self.assertIn(" 0 images encoded", self.run_program(*arguments, "--overwrite_output_dir"))
        text = self.run_program(*arguments, "--latent_cache_format", "tar", "--overwrite_output_dir")
        self.assertIn("24 images encoded", text)
        self.assertTrue((self.folder / "cache/latents-00000.tar").exists())

    def test_shards(self):
        self.write_unet(2, 2)
        make_shards(self.folder / "shards")
        self.assertIn("2 shards", self.run_program("--train_shards", "shards/s-{0..1}.tar", "--vae", VQ,
                                                   "--model_config_name_or_path", "unet.json", "--random_flip"))

    def test_class_labels(self):
        self.write_unet(4, 4, classes=3)
        self.run_program("--train_data_dir", "classes", "--vae", KL, "--conditioning_key", "adm", "--resolution", 16,
                         "--model_config_name_or_path", "unet.json", "--guidance_scale", 2)
        self.assertEqual(self.config("model_index.json")["_class_name"], "LatentDiffusionPipeline")
        self.assertTrue((self.out / "vae/diffusion_pytorch_model.safetensors").exists())
        self.assertTrue((self.out / "previews/samples-3.png").exists())

    def test_a_classifier_judges_the_classes_of_idx_files(self):
        self.write_unet(4, 4, classes=11)
        idx = ["--dataset", "mnist", "--data_dir", "idx", "--resolution", 8]
        self.run_in_folder(TRAIN_AUTOENCODER,
                           [*idx, "--block_out_channels", 4, 4, "--norm_num_groups", 2, "--perceptual_weight", 0,
                            "--disc_factor", 0, "--train_batch_size", 4, "--max_train_steps", 1, "--lr_warmup_steps", 0,
                            "--output_dir", "autoencoder"])
        arguments = [*idx, "--vae", "autoencoder", "--model_config_name_or_path", "unet.json"]
        text = self.run_program(*arguments, "--conditioning_key", "adm", "--num_evaluation_samples", 110)
        self.assertIn("classification of 110 samples at each guidance scale", text)
        for name in ("samples.png", "guidance.svg", "classifier.safetensors"):
            self.assertTrue((self.out / name).exists(), name)
        self.run_program(*arguments, "--conditioning_key", "adm", "--num_evaluation_samples", 0, "--overwrite_output_dir",
                         "--output_dir", "unjudged")
        self.assertFalse((self.folder / "unjudged/samples.png").exists())
        for more, part in ((["--num_evaluation_samples", 10], "--num_evaluation_samples needs"),
                           (["--conditioning_key", "adm", "--num_evaluation_samples", 1], "expected 0 or at least 2")):
            self.assertIn(part, self.run_program(*arguments, *more, "--output_dir", "refused", code=1))

    def test_captions_make_a_stable_diffusion_folder(self):
        self.write_metadata()
        self.write_unet(4, 4, attends=True)
        self.run_program("--train_data_dir", "flat", "--vae", KL, "--text_encoder", KL, "--conditioning_key", "crossattn",
                         "--model_config_name_or_path", "unet.json", "--resolution", 16, "--conditioning_dropout_prob", 0.2,
                         "--guidance_scale", 3)
        index = self.config("model_index.json")
        self.assertEqual(index["_class_name"], "StableDiffusionPipeline")
        self.assertEqual(index["tokenizer"], ["transformers", "CLIPTokenizer"])
        for part in ("vae", "text_encoder", "tokenizer", "unet", "scheduler"):
            self.assertTrue((self.out / part).is_dir(), part)

    def test_images_behind_the_latents(self):
        self.write_metadata()
        for name, channels, flags in (
            ("images", 5, ["--conditioning_image_column", "edges"]),
            ("encoded", 4, ["--conditioning_image_column", "edges", "--concat_input", "encoded_images"]),
            ("inpainting", 5, ["--mask_column", "hole", "--concat_input", "inpainting"]),
        ):
            with self.subTest(name):
                self.write_unet(channels, 2)
                self.run_program("--train_data_dir", "flat", "--vae", VQ, "--conditioning_key", "concat",
                                 "--model_config_name_or_path", "unet.json", "--overwrite_output_dir", *flags)
                self.assertEqual(self.config("model_index.json")["encodes_conditioning_images"], name == "encoded")
                self.assertTrue((self.out / "previews/samples-3.png").exists())

    def test_resumes_from_a_checkpoint(self):
        self.write_unet(2, 2)
        arguments = ["--train_data_dir", "flat", "--vae", VQ, "--model_config_name_or_path", "unet.json", "--seed", 1,
                     "--lr_scheduler", "constant"]
        self.run_program(*arguments, "--checkpointing_steps", 3)
        self.run_program(*arguments, "--max_train_steps", 5, "--resume_from_checkpoint", "latest")
        resumed = (self.out / "unet/diffusion_pytorch_model.safetensors").read_bytes()
        self.run_program(*arguments, "--max_train_steps", 5, "--overwrite_output_dir")
        self.assertEqual((self.out / "unet/diffusion_pytorch_model.safetensors").read_bytes(), resumed)

    def test_mistakes_are_named_before_the_training(self):
        self.write_metadata()
        self.write_unet(3, 3)
        data, vq = ["--train_data_dir", "flat"], ["--vae", VQ]
        for arguments, part in (
            (vq, "--train_data_dir or --dataset"),
            ([*data, "--vae", "nowhere"], "--vae: nowhere"),
            ([*data, "--vae", KL / "unet"], "expected AutoencoderKL or VQModel"),
            ([*data, *vq, "--dataset", "mnist"], "exclude each other"),
            ([*data, *vq, "--conditioning_key", "crossattn"], "--text_encoder is missing"),
            ([*data, *vq, "--text_encoder", KL], "--text_encoder needs --conditioning_key"),
            ([*data, *vq, "--conditioning_key", "concat"], "--conditioning_image_column is missing"),
            ([*data, *vq, "--conditioning_key", "concat", "--concat_input", "inpainting"], "--mask_column is missing"),
            ([*data, *vq, "--concat_input", "inpainting"], "--concat_input needs"),
            ([*data, *vq, "--conditioning_key", "adm"], "needs class labels"),
            ([*data, *vq, "--guidance_scale", 2], "--guidance_scale needs"),
            ([*data, *vq, "--latent_cache", "cache"], "--latent_cache needs --center_crop"),
            ([*data, *vq, "--latent_cache_format", "tar"], "--latent_cache_format needs --latent_cache"),
            (["--train_shards", "s.tar", *vq, "--latent_cache", "cache"], "--latent_cache needs --train_data_dir or --dataset"),
            ([*data, *vq, "--resolution", 12], "expected a multiple of 4"),
            ([*data, *vq, "--data_dir", "idx"], "--data_dir"),
            (["--dataset", "mnist", "--data_dir", "idx", *vq, "--conditioning_key", "concat"], "needs captions or images"),
            (["--dataset", "mnist", "--data_dir", "idx", *vq, "--center_crop"], "--center_crop needs"),
            ([*data, *vq, "--model_config_name_or_path", "unet.json"], "in_channels of the unet is 3"),
        ):
            self.assertIn(part, self.run_program(*arguments, code=1))
            self.assertFalse(self.out.exists(), arguments)


if __name__ == "__main__":
    unittest.main(verbosity=2)
