#!/usr/bin/env python3
"""The comparison with Python in its smallest size: compare_test.py PROGRAM [--with_python]

With --with_python the interpreter must have Python diffusers (tests/interop/run.py), and both sides are compared.
"""
import json
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
SCRIPT = ROOT / "benchmarks/compare.py"
TOKENIZER = ROOT / "tests/golden/tiny_stable_diffusion/tokenizer"
MNIST = ROOT / "examples/data/mnist"
sys.path.insert(0, str(SCRIPT.parent))
import compare  # noqa: E402


def run(command, given=""):
    result = subprocess.run([str(word) for word in command], input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, timeout=600)
    return result.returncode, result.stdout


def cells(text, row):
    line = next(line for line in text.splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


class Program(unittest.TestCase):
    def test_measures_once_for_each_line_of_its_input(self):
        with tempfile.TemporaryDirectory() as folder:
            flags = ["--size", "quick", "--folder", folder, "--tokenizer", TOKENIZER, "--mnist", MNIST]
            for row in ("mnist_step_64", "ddim_50"):
                code, text = run([PROGRAM, row, *flags], "measure\nmeasure\n")
                self.assertEqual(code, 0, text)
                ready, *measured, end = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
                self.assertEqual(ready["parameters"], 686769)
                self.assertEqual(len(measured), 2)
                for one in measured:
                    self.assertGreater(one["seconds"], 0)
                self.assertGreater(end["peak"], 2**20)
            self.assertEqual([path.name for path in pathlib.Path(folder).glob("out/checkpoint-*")], [])

    def test_refuses_wrong_arguments(self):
        flags = ["--folder", "out", "--tokenizer", TOKENIZER, "--mnist", MNIST]
        for words in ((), ("everything", *flags), ("load",), ("load", "--size", "huge", *flags), ("load", *flags, "--parts"),
                      ("load", *flags, "--parts", "-1")):
            code, text = run([PROGRAM, *words])
            self.assertEqual(code, 2, text)
            self.assertIn("usage: compare", text)
        code, text = run([PROGRAM, "start", *flags[:-1], "nowhere"])
        self.assertEqual(code, 1, text)
        self.assertIn("nowhere", text)


class Driver(unittest.TestCase):
    def drive(self, *flags):
        return run([sys.executable, SCRIPT, "--program", PROGRAM, "--quick", "--rounds", 1, "--threads", 2, *flags])

    def test_measures_every_row_of_one_side(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "table.md"
            code, text = self.drive("--only", "C++", "--output", path)
            self.assertEqual(code, 0, text)
            self.assertRegex(text, r"(?m)^size quick, 2 threads, 1 rounds, matrix products at [\d.]+ GFLOP/s$")
            for row in compare.ROWS:
                values = cells(text, row)
                self.assertRegex(values[1], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")
                self.assertRegex(values[7], r"^\d+$")
                self.assertEqual(values[2:7] + values[8:], [""] * 6)
            self.assertEqual(path.read_text(), text)

    def test_selects_rows_and_refuses_others(self):
        code, text = self.drive("--only", "C++", "--rows", "clip_encode", "--reference")
        self.assertEqual(code, 0, text)
        self.assertIn("without own kernels, size quick", text)
        self.assertEqual(text.count("\n| "), 2)  # the header and one row
        code, text = self.drive("--rows", "everything")
        self.assertEqual(code, 2, text)
        self.assertIn("everything", text)
        code, text = self.drive("--rounds", 0)
        self.assertEqual(code, 1, text)
        self.assertIn("--rounds is 0", text)

    @unittest.skipUnless(WITH_PYTHON, "interop.benchmark_compare runs this")
    def test_compares_both_sides(self):
        code, text = self.drive()
        self.assertEqual(code, 0, text)
        # Both sides have the same models: the driver compares the numbers of parameters.
        for row in compare.ROWS:
            values = cells(text, row)
            self.assertRegex(values[2], r"^[\d.]+ \([\d.]+ to [\d.]+\) (eager|channels_last)$")
            self.assertRegex(values[3], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")
            if row not in compare.NO_FLOPS:
                self.assertGreater(float(values[5]), 0)
                self.assertTrue(re.fullmatch(r"\d+ %", values[6]), values)
            self.assertRegex(values[8], r"^\d+$")


if __name__ == "__main__":
    unittest.main(verbosity=2)
