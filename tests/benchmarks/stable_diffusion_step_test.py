#!/usr/bin/env python3
"""The benchmark of a Stable Diffusion step with tiny models: stable_diffusion_step_test.py PROGRAM [--with_python]

With --with_python the interpreter must have Python diffusers (tests/interop/run.py), and both sides are compared.
"""
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

WITH_PYTHON = "--with_python" in sys.argv
if WITH_PYTHON:
    sys.argv.remove("--with_python")
PROGRAM = pathlib.Path(sys.argv.pop(1)).resolve()
ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "tests/golden/tiny_stable_diffusion/tokenizer"


def run(command):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=600)
    return result.returncode, result.stdout


class Program(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)

    def measure(self, *flags):
        code, text = run([PROGRAM, "--size", "tiny", "--steps", 2, *flags, self.folder, TOKENIZER])
        self.assertEqual(code, 0, text)
        return json.loads(text.splitlines()[-1])

    def test_prints_the_measurements_of_each_step(self):
        for mixed_precision in ("no", "bf16"):
            result = self.measure("--mixed_precision", mixed_precision)
            self.assertEqual(len(result["seconds"]), 2)
            self.assertEqual(len(result["losses"]), 2)
            for loss in result["losses"]:
                # The error of a UNet with random weights against noise.
                self.assertTrue(0.1 < loss < 100 and math.isfinite(loss), loss)
            self.assertGreater(min(result["seconds"]), 0)
            self.assertGreater(result["peak"], 2**20)
            self.assertNotIn("peak_with_saving", result)
            self.assertFalse((self.folder / "model_index.json").exists())

    def test_writes_the_pipeline_folder_if_asked(self):
        result = self.measure("--save")
        self.assertGreaterEqual(result["peak_with_saving"], result["peak"])
        self.assertTrue((self.folder / "model_index.json").exists())
        self.assertTrue((self.folder / "unet/diffusion_pytorch_model.safetensors").exists())

    def test_trains_an_adapter_if_asked(self):
        for mixed_precision in ("no", "bf16"):
            result = self.measure("--lora", 4, "--mixed_precision", mixed_precision)
            self.assertTrue(all(0.1 < loss < 100 for loss in result["losses"]), result)
        self.measure("--lora", 4, "--mixed_precision", "bf16", "--save")
        self.assertLess((self.folder / "pytorch_lora_weights.safetensors").stat().st_size, 2**20)

    def test_refuses_wrong_arguments(self):
        for flags in ((), ("--size", "huge", "out", TOKENIZER), ("--steps", "0", "out", TOKENIZER), ("--steps",), ("out",),
                      ("--lora", "-1", "out", TOKENIZER)):
            code, text = run([PROGRAM, *flags])
            self.assertEqual(code, 2, text)
            self.assertIn("usage: stable_diffusion_step", text)
        code, text = run([PROGRAM, "--size", "tiny", self.folder, self.folder / "nowhere"])
        self.assertEqual(code, 1, text)
        self.assertIn("nowhere", text)


class Driver(unittest.TestCase):
    def drive(self, *flags):
        return run([sys.executable, ROOT / "benchmarks/stable_diffusion_step.py", "--program", PROGRAM, "--size", "tiny",
                    "--rounds", 1, "--steps", 2, *flags])

    def test_measures_one_side(self):
        code, text = self.drive("--only", "C++", "--mixed_precision", "no")
        self.assertEqual(code, 0, text)
        self.assertRegex(text, r"(?m)^first step +C\+\+ +[\d.]+ s$")
        self.assertRegex(text, r"(?m)^peak memory +C\+\+ +\d+ MiB$")
        code, text = self.drive("--steps", 1)
        self.assertNotEqual(code, 0)
        self.assertIn("--steps is 1", text)

    @unittest.skipUnless(WITH_PYTHON, "interop.benchmark runs this")
    def test_compares_both_sides(self):
        code, text = self.drive()
        self.assertEqual(code, 0, text)
        for mixed_precision in ("no", "bf16"):
            self.assertIn(f"tiny size, mixed_precision {mixed_precision}", text)
        # Both sides train the same models: the driver compares the numbers of parameters.
        self.assertEqual(len(re.findall(r"UNet2DConditionModel with [\d,]+ parameters", text)), 2)
        code, text_of_lora = self.drive("--lora", 4, "--mixed_precision", "bf16")
        self.assertEqual(code, 0, text_of_lora)
        self.assertIn("tiny size, LoRA of rank 4, mixed_precision bf16", text_of_lora)
        self.assertRegex(text_of_lora, r"(?m)^peak memory .*C\+\+ .*Python .*ratio [\d.]+")
        for row in ("first step", "following steps", "peak memory"):
            self.assertEqual(len(re.findall(rf"(?m)^{row} .*C\+\+ .*Python .*ratio [\d.]+", text)), 2, text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
