"""A test case that runs a program in a temporary folder."""
import pathlib
import subprocess
import tempfile
import unittest


class ProgramCase(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"

    def run_in_folder(self, program, words, code=0, timeout=300):
        """Runs the program, expects the exit code and returns the output."""
        result = subprocess.run([program, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=timeout)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout
