#!/usr/bin/env python3
"""Tests that reconstruct_ema makes a model folder from snapshots: reconstruct_ema_test.py PROGRAM"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

PROGRAM = sys.argv.pop(1) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else "reconstruct_ema"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def write_tensors(path, tensors, metadata=None):
    """tensors: name -> list of float32 values."""
    header, values = {"__metadata__": metadata} if metadata else {}, b""
    for name, numbers in tensors.items():
        data = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": [len(numbers)], "data_offsets": [len(values), len(values) + len(data)]}
        values += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + values)


def read_tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8: 8 + size])
    header.pop("__metadata__", None)
    return {name: list(struct.unpack(f"<{entry['shape'][0]}f",
                                     data[8 + size + entry["data_offsets"][0]: 8 + size + entry["data_offsets"][1]]))
            for name, entry in header.items()}


class ReconstructEma(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.TemporaryDirectory()
        self.addCleanup(self.root.cleanup)
        self.folder = pathlib.Path(self.root.name)
        for name in ("snapshots", "model"):
            (self.folder / name).mkdir()
        (self.folder / "model/config.json").write_text('{"_class_name": "Net", "channels": 3}')
        write_tensors(self.folder / "model" / WEIGHTS, {"conv.weight": [9.0, 9.0], "position_ids": [1.0]})
        self.steps = range(2, 21, 2)
        for step in self.steps:
            for width in (0.05, 0.1):
                self.add_snapshot(step, width, [step * width, 1.0])

    def add_snapshot(self, step, width, values, name="conv.weight"):
        write_tensors(self.folder / f"snapshots/power_ema-{step}-{width}.safetensors", {name: values},
                      {"step": str(step), "sigma_rel": str(width)})

    def run_program(self, *arguments):
        command = [PROGRAM, self.folder / "snapshots", "--model", self.folder / "model", "--output", self.folder / "out"]
        result = subprocess.run([*map(str, command), *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return result.returncode, result.stdout

    def test_stored_width_gives_its_snapshot(self):
        code, text = self.run_program("--sigma_rel", "0.1", "--step", "10")
        self.assertEqual(code, 0, text)
        self.assertIn("step 10", text)
        self.assertEqual(read_tensors(self.folder / "out" / WEIGHTS), {"conv.weight": [1.0, 1.0], "position_ids": [1.0]})
        self.assertEqual(json.loads((self.folder / "out/config.json").read_text())["channels"], 3)

    def test_width_between_lies_between(self):
        code, text = self.run_program("--sigma_rel", "0.07")
        self.assertEqual(code, 0, text)
        self.assertIn("step 20", text)
        values = read_tensors(self.folder / "out" / WEIGHTS)["conv.weight"]
        self.assertTrue(1.0 < values[0] < 2.0, values)
        # The second weight is the same in all averages.
        self.assertAlmostEqual(values[1], 1.0, delta=0.001)

    def test_mistakes_are_named(self):
        for arguments, part in (
            (["--step", "15"], "18, 20"),
            (["--sigma_rel", "0.4"], "sigma_rel is 0.4"),
        ):
            code, text = self.run_program(*arguments)
            self.assertEqual(code, 1, text)
            self.assertIn(part, text)
            self.assertFalse((self.folder / "out").exists())

    def test_snapshots_of_another_model_are_refused(self):
        for step in self.steps:
            for width in (0.05, 0.1):
                self.add_snapshot(step, width, [1.0], name="other.weight")
        code, text = self.run_program()
        self.assertEqual(code, 1, text)
        self.assertIn("other.weight", text)


if __name__ == "__main__":
    unittest.main()
