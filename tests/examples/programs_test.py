#!/usr/bin/env python3
"""What all programs share: programs_test.py SOURCES PROGRAM...

They check the device before any work, and show an error of LibTorch without its stack trace.
"""
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = pathlib.Path(sys.argv[1])
PROGRAMS = {pathlib.Path(path).name: pathlib.Path(path).resolve() for path in sys.argv[2:]}
MODEL = ROOT / "tests/golden/tiny_ddpm_pipeline"
# What a program needs besides --device to start its work.
ARGUMENTS = {
    "compare_schedulers": ["--model", MODEL],
    "diffusion_from_scratch": ["--data_dir", ROOT / "examples/data/mnist"],
    "inspect_checkpoint": [MODEL],
    "reconstruct_ema": [MODEL, "--model", MODEL, "--output", "out"],
    "sample": ["--model", MODEL],
    "train_mnist": ["--data_dir", ROOT / "examples/data/mnist"],
}
# Arguments for which a program asks LibTorch for more memory than there is.
TOO_LARGE = {
    "compare_schedulers": ["--model", MODEL, "--num_images", 10**12],
    "sample": ["--model", MODEL, "--num_images", 10**12],
}


class Programs(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)

    def fails(self, name, arguments):
        """The message of a run that has to fail without a stack trace."""
        result = subprocess.run([PROGRAMS[name], *map(str, arguments)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=60)
        self.assertGreater(result.returncode, 0, result.stdout)
        self.assertNotRegex(result.stdout, r"frame #\d|Exception raised from|what\(\)|terminate")
        return result.stdout

    def test_a_device_that_is_not_there_is_refused_before_any_work(self):
        with_device = set()
        for name, program in PROGRAMS.items():
            help_text = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
            if "--device" not in help_text:
                # It computes on the CPU alone, and refuses the flag.
                message = self.fails(name, [*ARGUMENTS[name], "--device", "cuda"])
                self.assertRegex(message, r"not expected: .*--device")
                continue
            with_device.add(name)
            message = self.fails(name, [*ARGUMENTS[name], "--device", "tpu"])
            self.assertIn('--device: there is no device "tpu"; available: cpu', message)
            devices = ["cuda:7", "cuda:", "cuda:-1", "cuda:x", "cuda:99999999999999999999", "cpu:0", "meta"]
            if "cuda:0" not in message:
                devices.append("cuda")
            for device in devices:
                with self.subTest(program=name, device=device):
                    message = self.fails(name, [*ARGUMENTS[name], f"--device={device}"])
                    self.assertRegex(message, r"--device: there is no .*; available: cpu(, cuda:\d)*\n")
            self.assertEqual(list(self.folder.iterdir()), [], f"{name} began to work")
        self.assertEqual(with_device, {"diffusion_from_scratch", "sample", "train_mnist"})

    def test_errors_of_libtorch_have_no_stack_trace(self):
        for name, arguments in TOO_LARGE.items():
            with self.subTest(program=name):
                message = self.fails(name, arguments)
                self.assertTrue(message.startswith(f"{name}: "), message)
                self.assertLess(message.count("\n"), 4, message)

    def test_every_program_runs_in_the_shared_wrapper(self):
        mains = 0
        for path in sorted(SOURCES.glob("*.cpp")):
            for line in re.findall(r"^int main\(.*", path.read_text(), re.MULTILINE):
                mains += 1
                self.assertRegex(line, r'^int main\(int argc, char\*\* argv\) \{ return run_program\("'
                                 + path.stem + r'", run, argc, argv\); \}$')
        self.assertEqual(mains, len(PROGRAMS))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
