#!/usr/bin/env python3
"""device_check.sh without a device: device_check_test.py BUILD WITH_CUDA

BUILD is a build folder with tests. WITH_CUDA is 1 if it was configured with CUDA.
"""
import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

WITH_CUDA = sys.argv.pop() == "1"
BUILD = pathlib.Path(sys.argv.pop()).resolve()
BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "device_check.sh"
PROGRAM = BUILD / "benchmarks/device_benchmark"


def run(command, **variables):
    result = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            timeout=600, env={**os.environ, **variables})
    return result.returncode, result.stdout


def has_device():
    return run([PROGRAM, "devices"])[0] == 0


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)


class Arguments(unittest.TestCase):
    def test_wrong_arguments_are_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            empty = pathlib.Path(folder)
            for words, part in (((), "usage"), (("--help",), "usage"), ((BUILD, folder, "more"), "usage"),
                                (("--pack", BUILD), "usage"), (("nowhere",), "nowhere is not a folder"),
                                ((folder,), "has no cuda_tests.txt")):  # fmt: skip
                code, text = run([SCRIPT, *words])
                self.assertEqual(code, 2, text)
                self.assertIn(part, text)
            (empty / "cuda_tests.txt").touch()
            code, text = run([SCRIPT, folder])
            self.assertEqual(code, 2, text)
            self.assertIn("was configured without CUDA", text)
            (empty / "cuda_tests.txt").write_text("tests/ops/test_ops OnCuda.*\n")
            code, text = run([SCRIPT, folder])
            self.assertEqual(code, 2, text)
            self.assertIn("build the target device_benchmark", text)
            write_program(empty / "benchmarks/device_benchmark", "exit 0\n")
            code, text = run([SCRIPT, folder])
            self.assertEqual(code, 2, text)
            self.assertIn("build the target test_ops", text)
            write_program(empty / "tests/ops/test_ops", "exit 0\n")
            code, text = run([SCRIPT, folder])
            self.assertEqual(code, 2, text)
            self.assertIn("build the target diffusers_cuda", text)
            (empty / "libdiffusers_cuda.so").touch()
            code, text = run([SCRIPT, folder, "nowhere"])
            self.assertEqual(code, 2, text)
            self.assertIn("nowhere is not a folder of wheels", text)
            code, text = run([SCRIPT, folder], DEVICE_CHECK_SECONDS="soon")
            self.assertEqual(code, 2, text)


class Check(unittest.TestCase):
    """With programs that take the place of the tests and of the benchmark."""

    def check(self, test, benchmark='echo "{\\"row\\": \\"x\\", \\"seconds\\": 0.5}"', **variables):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "cuda_tests.txt").write_text("tests/ops/test_ops OnCuda.*\ntests/io/test_io OnCuda.*\n")
            write_program(root / "tests/ops/test_ops", test)
            write_program(root / "tests/io/test_io", 'test "$2" = "--gtest_filter=OnCuda.*"\n')
            write_program(root / "benchmarks/device_benchmark", benchmark + "\n")
            (root / "libdiffusers_cuda.so").touch()
            return run([SCRIPT, folder], PYTHON="false", **variables)

    def test_without_a_device_nothing_passes(self):
        code, text = self.check("exit 0", "exit 3")
        self.assertEqual(code, 3, text)
        self.assertIn("there is no CUDA device", text)
        self.assertIn("Never run on a device: kernels", text)
        self.assertNotIn("passed", text)

    def test_passed_tests_and_times_are_reported(self):
        code, text = self.check("exit 0")
        self.assertEqual(code, 0, text)
        self.assertIn("cuda.ops: passed", text)
        self.assertIn("cuda.io: passed", text)
        self.assertIn("default: 0.5; against eager not measured", text)
        self.assertRegex(text.splitlines()[-1], "^Never run on a device before this check: kernels .*ran in this check$")

    def test_failed_skipped_and_late_tests_are_no_success(self):
        for test, part in (("echo broken; exit 1", "cuda.ops: FAILED"), ("echo 'SKIPPED: x'; exit 77", "cuda.ops: did not run"),
                           ("kill -SEGV $$", "cuda.ops: FAILED")):  # fmt: skip
            code, text = self.check(test)
            self.assertEqual(code, 1, text)
            self.assertIn(part, text)
            self.assertIn("cuda.io: passed", text)
            self.assertIn("tests failed or did not run", text.splitlines()[-1])
        code, text = self.check("exit 0", DEVICE_CHECK_SECONDS="5")
        self.assertEqual(code, 1, text)
        self.assertIn("Not run in this check: cuda.ops,cuda.io", text)


class Build(unittest.TestCase):
    def test_the_list_of_tests_fits_the_build(self):
        lines = (BUILD / "cuda_tests.txt").read_text().splitlines()
        self.assertEqual(len(lines) > 0, WITH_CUDA)
        for line in lines:
            program, test_filter = line.split()
            code, text = run([BUILD / program, "--gtest_list_tests"])
            self.assertEqual(code, 0, text)
            names, suite = [], ""
            for one in (word.split("#")[0] for word in text.splitlines()):
                if one.startswith("  "):
                    names.append(suite + one.strip())
                else:
                    suite = one.strip()
            for pattern in test_filter.split(":"):
                self.assertTrue(fnmatch.filter(names, pattern), f"{program} has no test {pattern}")

    def test_a_cuda_test_without_a_device_is_skipped(self):
        if not WITH_CUDA or has_device():
            self.skipTest("needs a build with CUDA on a machine without a device")
        for line in (BUILD / "cuda_tests.txt").read_text().splitlines():
            program, test_filter = line.split()
            code, text = run([BUILD / program, "--gtest_brief=1", "--gtest_filter=" + test_filter], DIFFUSERS_SKIP_CODE="77")
            self.assertEqual(code, 77, text)
            self.assertIn("no CUDA device", text)
        code, text = run([BUILD / program, "--gtest_brief=1", "--gtest_filter=Nothing.*"], DIFFUSERS_SKIP_CODE="77")
        self.assertEqual(code, 1, text)

    def test_the_script_says_that_there_is_no_device(self):
        if not WITH_CUDA or has_device():
            self.skipTest("needs a build with CUDA on a machine without a device")
        code, text = run([SCRIPT, BUILD])
        self.assertEqual(code, 3, text)
        self.assertIn("there is no CUDA device", text)


    def test_a_packed_folder_has_what_the_check_needs(self):
        with tempfile.TemporaryDirectory() as folder:
            build, packed = pathlib.Path(folder) / "build", pathlib.Path(folder) / "packed"
            for name in ("benchmarks/device_benchmark", "tests/ops/test_ops"):
                (build / name).parent.mkdir(parents=True)
                (build / name).symlink_to(PROGRAM)
            (build / "cuda_tests.txt").write_text("tests/ops/test_ops OnCuda.*\n")
            (build / "libdiffusers_cuda.so").symlink_to(PROGRAM)
            code, text = run([SCRIPT, "--pack", build, packed])
            self.assertEqual(code, 0, text)
            names = sorted(path.relative_to(packed).as_posix() for path in packed.rglob("*") if path.is_file())
            for name in ("benchmarks/device_benchmark", "benchmarks/device_check.sh", "benchmarks/device_steps.py",
                         "cuda_tests.txt", "libdiffusers_cuda.so", "tests/ops/test_ops"):  # fmt: skip
                self.assertIn(name, names)
            libraries = [name for name in names if name.startswith("lib/")]
            self.assertTrue(any("png" in name for name in libraries), libraries)
            self.assertFalse([name for name in libraries if name.startswith(("lib/libtorch", "lib/libc10", "lib/libcuda", "lib/libc.so"))])
            if not has_device():
                code, text = run([packed / "benchmarks/device_check.sh", packed])
                self.assertEqual(code, 3, text)


class Benchmark(unittest.TestCase):
    def test_measures_each_row(self):
        with tempfile.TemporaryDirectory() as folder:
            for row in ("mnist_step", "unet_step", "group_norm"):
                code, text = run([PROGRAM, row, "--device", "cpu", "--size", "quick", "--steps", "2", "--folder", folder])
                self.assertEqual(code, 0, text)
                results = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
                self.assertEqual(results[0]["row"], row)
                self.assertGreater(results[-1].get("seconds", results[-1].get("ratio")), 0)

    def test_refuses_wrong_arguments(self):
        for words in ((), ("everything",), ("unet_step", "--steps"), ("unet_step", "--steps", "0"), ("unet_step", "--size", "1")):
            code, text = run([PROGRAM, *words])
            self.assertEqual(code, 2, text)
            self.assertIn("usage: device_benchmark", text)
        if not has_device():
            code, text = run([PROGRAM, "mnist_step"])
            self.assertEqual(code, 3, text)
            self.assertIn("there is no CUDA device", text)


if __name__ == "__main__":
    unittest.main()
