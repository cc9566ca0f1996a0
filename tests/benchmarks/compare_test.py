#!/usr/bin/env python3
"""The comparison with Python in its smallest size: compare_test.py PROGRAM [--with_python]

With --with_python the interpreter must have Python diffusers (tests/interop/run.py), and both sides are compared.
"""
import argparse
import json
import os
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

    def test_measures_rows_of_one_side(self):
        rows = ("mnist_step_64", "mnist_step_64_busy", "unet_step_batch_1", "lora_step", "clip_encode", "start", "load")
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "table.md"
            code, text = self.drive("--only", "C++", "--output", path, "--rows", *rows)
            self.assertEqual(code, 0, text)
            self.assertRegex(text, r"(?m)^size quick, 2 threads, 1 rounds, matrix products at [\d.]+ GFLOP/s, copies at [\d.]+ GB/s$")
            for row in rows:
                values = cells(text, row)
                self.assertRegex(values[1], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")
                self.assertRegex(values[7], r"^\d+$")
                limit = [*values[5:7]] if row == "load" else ["", ""]
                self.assertEqual(values[2:7] + values[8:], ["", "", "", *limit, ""])
            self.assertRegex(cells(text, "load")[6], r"^\d+ %$")
            self.assertEqual(path.read_text(), text)

    def test_compares_this_library_with_itself(self):
        rows = ("mnist_step_64_automatic", "unet_step_bf16", "unet_step_fused_backward", "lora_step_vs_full", "lora_inference_fused")
        code, text = self.drive("--rows", *rows)
        self.assertEqual(code, 0, text)
        for row in rows:
            values = cells(text, row)
            self.assertRegex(values[2], rf"^[\d.]+ \([\d.]+ to [\d.]+\) {compare.ROWS[row].against[0]}$")
            self.assertRegex(values[3], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")

    def test_holds_one_process_at_a_time(self):
        code, text = self.drive("--one_at_a_time", "--rounds", 2, "--rows", "unet_step_fused_backward")
        self.assertEqual(code, 0, text)
        values = cells(text, "unet_step_fused_backward")
        self.assertRegex(values[3], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")
        self.assertRegex(values[7], r"^\d+$")

    def test_knows_the_work_of_each_row(self):
        source = (ROOT / "benchmarks/compare.cpp").read_text()
        for row in compare.ROWS.values():
            for work in (row.work, *row.against[1:2]):
                self.assertIn(f'{{"{work}", ', source)

    def test_writes_the_table_into_the_documentation(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "performance.md"
            path.write_text(f"before\n{compare.DOCS_BEGIN}\nold\n{compare.DOCS_END}\nafter\n")
            code, text = self.drive("--only", "C++", "--rows", "load", "--docs", path)
            self.assertEqual(code, 0, text)
            self.assertEqual(path.read_text(), f"before\n{compare.DOCS_BEGIN}\n{text}{compare.DOCS_END}\nafter\n")
            path.write_text("no table")
            code, text = self.drive("--only", "C++", "--rows", "load", "--docs", path)
            self.assertEqual(code, 1, text)
            self.assertIn("expected the lines", text)
        self.assertEqual(compare.DOCS.read_text().count(compare.DOCS_BEGIN), 1)
        self.assertEqual(compare.DOCS.read_text().count(compare.DOCS_END), 1)

    def test_limits_are_the_slower_of_computing_and_copying(self):
        rates = compare.Rates(flops=1e9, bytes=1e6)
        self.assertAlmostEqual(rates.seconds(2e9, 0, 10), 2)
        self.assertAlmostEqual(rates.seconds(2e9, 10, 100_000), 4)
        self.assertIsNone(rates.seconds(None, 0, 10))

    def test_a_busy_neighbour_lasts_as_long_as_its_scope(self):
        with compare.busy_neighbour(True):
            children = pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            self.assertEqual(len(children), 1)
        self.assertEqual(pathlib.Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split(), [])
        with compare.busy_neighbour(False):
            pass

    def test_busy_rows_have_no_variables_of_openmp(self):
        arguments = argparse.Namespace(threads=2, reference=False, avx2=False)
        os.environ["OMP_WAIT_POLICY"] = "passive"
        self.assertNotIn("OMP_WAIT_POLICY", compare.environment_of(compare.ROWS["unet_step"], "C++", arguments))
        self.assertEqual(compare.environment_of(compare.ROWS["unet_step"], "C++", arguments)["OMP_NUM_THREADS"], "2")
        for name in ("C++", "eager"):
            environment = compare.environment_of(compare.ROWS["mnist_step_64_busy"], name, arguments)
            self.assertEqual([key for key in environment if "OMP" in key], [])

    def test_no_side_uses_avx512_with_avx2(self):
        arguments = argparse.Namespace(threads=2, reference=False, avx2=True)
        for name in ("C++", "eager"):
            environment = compare.environment_of(compare.ROWS["unet_step"], name, arguments)
            self.assertEqual({key: environment[key] for key in compare.AVX2}, compare.AVX2)
        code, text = self.drive("--only", "C++", "--rows", "mnist_step_64", "--avx2")
        self.assertEqual(code, 0, text)
        self.assertIn("AVX2, size quick", text)

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
        rows = ["mnist_step_64", "ddim_50", "unet_step_batch_1", "lora_step", "vae_encode", "vae_decode", "clip_encode",
                "text_to_image_step", "start", "load"]  # fmt: skip
        code, text = self.drive("--no_compile", "--rows", *rows)
        self.assertEqual(code, 0, text)
        self.assertIn("torch.compile was left out (--no_compile)", text)
        # Both sides have the same models: the driver compares the numbers of parameters.
        for row in rows:
            values = cells(text, row)
            self.assertRegex(values[2], r"^[\d.]+ \([\d.]+ to [\d.]+\) (eager|channels_last)$")
            self.assertRegex(values[3], r"^[\d.]+ \([\d.]+ to [\d.]+\)$")
            if compare.ROWS[row].has_flops:
                self.assertGreater(float(values[5]), 0)
                self.assertTrue(re.fullmatch(r"\d+ %", values[6]), values)
            self.assertRegex(values[8], r"^\d+$")


if __name__ == "__main__":
    unittest.main(verbosity=2)
