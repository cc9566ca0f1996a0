#!/usr/bin/env python3
"""Tests inspect_checkpoint with valid, damaged, incomplete and suspicious folders: inspect_checkpoint_test.py PROGRAM"""
import json
import math
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden"
PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "inspect_checkpoint"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def read_tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8: 8 + size])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"], data[8 + size + entry["data_offsets"][0]: 8 + size + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write_tensors(path, tensors):
    header, values = {}, b""
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


class InspectCheckpoint(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.TemporaryDirectory()
        self.addCleanup(self.root.cleanup)
        self.folder = pathlib.Path(self.root.name) / "pipeline"
        shutil.copytree(GOLDEN / "tiny_ddpm_pipeline", self.folder)

    def inspect(self, *arguments):
        result = subprocess.run([PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return result.returncode, result.stdout

    def expect(self, code, *parts, arguments=None):
        found, text = self.inspect(*(arguments or [self.folder]))
        self.assertEqual(found, code, text)
        for part in parts:
            self.assertIn(part, text)
        return text

    def change_tensors(self, change, path=WEIGHTS):
        tensors = read_tensors(self.folder / path)
        change(tensors)
        write_tensors(self.folder / path, tensors)

    def change_json(self, path, **changes):
        config = json.loads((self.folder / path).read_text())
        config.update(changes)
        (self.folder / path).write_text(json.dumps({key: value for key, value in config.items() if value != "REMOVED"}))

    def add_vae(self, **config):
        (self.folder / "vae").mkdir()
        (self.folder / "vae/config.json").write_text(json.dumps({"_class_name": "AutoencoderOfNobody", **config}))
        self.change_json("model_index.json", vae=["diffusers", "AutoencoderOfNobody"])

    def test_good_pipeline_has_nothing_to_say(self):
        text = self.expect(0, "pipeline DDPMPipeline", "UNet2DModel", "DDPMScheduler", "float32", "It would load.")
        self.assertNotIn("warning", text)
        tensors = read_tensors(self.folder / WEIGHTS)
        count = sum(len(data) // 4 for _, _, data in tensors.values())
        self.assertIn(f"{count:,} parameters in {len(tensors)} tensors", text)

    def test_a_discriminator_is_known(self):
        folder = self.folder / "discriminator"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"_class_name": "NLayerDiscriminator", "input_nc": 1, "ndf": 2, "n_layers": 1}))
        tensors = {f"main.{number}.{name}": ("F32", shape, bytes(4 * math.prod(shape)))
                   for number, name, shape in ((0, "weight", [2, 1, 4, 4]), (0, "bias", [2]), (2, "weight", [4, 2, 4, 4]),
                                               (3, "weight", [4]), (3, "bias", [4]), (3, "running_mean", [4]),
                                               (3, "running_var", [4]), (5, "weight", [1, 4, 4, 4]), (5, "bias", [1]))}
        tensors["main.3.num_batches_tracked"] = ("I64", [], bytes(8))
        write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors)
        self.expect(0, "NLayerDiscriminator", arguments=[folder])
        tensors["main.5.weight"] = ("F32", [1, 2, 4, 4], bytes(128))
        write_tensors(folder / "diffusion_pytorch_model.safetensors", tensors)
        self.expect(1, "main.5.weight", arguments=[folder])

    def test_parts_by_themselves(self):
        self.expect(0, "UNet2DModel", arguments=[self.folder / "unet"])
        self.expect(0, "DDPMScheduler", arguments=[self.folder / "scheduler"])
        self.expect(0, "safetensors file", arguments=[self.folder / WEIGHTS])
        self.expect(0, "in shards", arguments=[GOLDEN / "unet_2d_sharded_fp16", "--variant", "fp16"])
        self.expect(0, "names of an old version", "query.weight -> ", arguments=[GOLDEN / "unet_2d_legacy"])

    def test_torn_files_would_not_load(self):
        path = self.folder / WEIGHTS
        path.write_bytes(path.read_bytes()[:-5])
        self.expect(1, "error: unet: ", "the file holds", "A load would fail.")
        path.unlink()
        self.expect(1, "there is no diffusion_pytorch_model.safetensors")
        shutil.rmtree(self.folder / "unet")
        self.expect(1, "there is no folder")
        (self.folder / "model_index.json").write_text("{")
        self.expect(1, "not valid JSON")
        self.expect(1, "no such file or folder", arguments=[self.folder / "nowhere"])
        (self.folder / "empty").mkdir()
        self.expect(1, "there is no model_index.json, config.json", arguments=[self.folder / "empty"])

    def test_missing_extra_and_mismatched_tensors(self):
        def change(tensors):
            dtype, shape, data = tensors.pop("conv_in.bias")
            tensors["conv_in.biased"] = (dtype, shape, data)
            dtype, shape, data = tensors["conv_out.weight"]
            tensors["conv_out.weight"] = (dtype, shape[::-1], data)
        self.change_tensors(change)
        self.expect(1, "1 tensors are missing: conv_in.bias", "1 tensors belong to no part of the model: conv_in.biased",
                    "1 tensors have another shape: conv_out.weight is")

    def test_nan_is_noticed_and_loads(self):
        def change(tensors):
            dtype, shape, data = tensors["conv_in.bias"]
            tensors["conv_in.bias"] = (dtype, shape, struct.pack("<ff", float("nan"), float("inf")) + data[8:])
        self.change_tensors(change)
        self.expect(0, "1 tensors hold NaN or infinity: conv_in.bias (2 of 8)")
        text = self.expect(0, arguments=[self.folder, "--skip_values"])
        self.assertNotIn("NaN", text)

    def test_configs_that_cannot_be(self):
        self.change_json("unet/config.json", in_channels=True)
        self.expect(1, "in_channels is true")
        self.change_json("unet/config.json", in_channels=1, norm_num_groups=3)
        self.expect(1, "error: unet: ")
        self.change_json("unet/config.json", norm_num_groups=4)
        self.change_json("scheduler/scheduler_config.json", beta_schedule="circular")
        self.expect(1, "error: scheduler: ", "circular")
        self.change_json("model_index.json", unet=["UNet2DModel"])
        self.expect(1, "expected [library, class]")

    def test_suspicious_configs(self):
        self.change_json("scheduler/scheduler_config.json", rescale_betas_zero_snr=True, prediction_type="epsilon",
                         clip_sample="REMOVED")
        self.change_json("unet/config.json", num_train_timesteps=4000)
        self.expect(0, "rescale_betas_zero_snr with prediction_type epsilon", "num_train_timesteps is 1000, that of the unet")
        self.add_vae(latent_channels=4, block_out_channels=[8, 8, 8], sample_size=64)
        self.expect(0, "clip_sample is true", "no scaling_factor", "in_channels is 1, latent_channels of the vae 4",
                    "sample_size is 8, but the vae makes latents of 16")

    def test_numbers_that_are_not_finite(self):
        config = json.loads((self.folder / "scheduler/scheduler_config.json").read_text())
        config.update(_class_name="DPMSolverMultistepScheduler", lambda_min_clipped=float("-inf"))
        (self.folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
        self.change_json("model_index.json", scheduler=["diffusers", "DPMSolverMultistepScheduler"])
        self.expect(0, "DPMSolverMultistepScheduler", "It would load.")
        other = pathlib.Path(self.root.name) / "other"
        shutil.copytree(self.folder, other)
        self.change_json("scheduler/scheduler_config.json", lambda_min_clipped=-5.5)
        self.expect(0, "config lambda_min_clipped: -5.5, there -Infinity", arguments=[self.folder, "--against", other])
        self.add_vae(scaling_factor=float("nan"))
        self.expect(0, "scaling_factor is nan, expected a positive number")

    def test_keys_that_stand_twice(self):
        (self.folder / "unet/config.json").write_text('{"in_channels": 1, "in_channels": 3}')
        self.expect(1, "occurs twice")

    def test_links_that_lead_out_of_the_folder(self):
        shutil.move(self.folder / "unet", pathlib.Path(self.root.name) / "elsewhere")
        (self.folder / "unet").symlink_to(pathlib.Path(self.root.name) / "elsewhere")
        self.expect(1, "a link leads out of the folder")

    def test_unknown_components_are_listed(self):
        (self.folder / "safety").mkdir()
        self.change_json("model_index.json", safety=["somewhere", "SafetyChecker"], tokenizer=[None, None])
        text = self.expect(0, "SafetyChecker is no class of this library")
        self.assertNotIn("tokenizer", text)

    def test_differences(self):
        other = pathlib.Path(self.root.name) / "other"
        shutil.copytree(self.folder, other)
        self.expect(0, "0 of", arguments=[self.folder, "--against", other])

        def change(tensors):
            dtype, shape, data = tensors["conv_in.bias"]
            first = struct.unpack("<f", data[:4])[0]
            tensors["conv_in.bias"] = (dtype, shape, struct.pack("<f", first + 0.5) + data[4:])
            dtype, shape, data = tensors["conv_out.bias"]
            tensors["conv_out.bias"] = ("F64", shape, struct.pack("<d", *struct.unpack("<f", data)))
            tensors["added"] = ("F32", [1], b"\0\0\0\0")
        self.change_tensors(change)
        self.change_json("unet/config.json", dropout=0.25)
        text = self.expect(0, "only here: added [1]", "conv_out.bias: float64, there float32", "config dropout: 0.25, there 0.1",
                           "conv_in.bias: differs by at most 0.5", "1 of", arguments=[self.folder, "--against", other])
        self.assertNotIn("conv_out.bias: differs", text)
        self.expect(0, "only there: added", arguments=[other / WEIGHTS, "--against", self.folder / WEIGHTS])
        self.expect(1, "no such file", arguments=[self.folder, "--against", self.folder / "none"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
