"""A test case that runs a program in a temporary folder."""
import os
import pathlib
import socket
import subprocess
import tempfile
import unittest


class ProgramCase(unittest.TestCase):
    def setUp(self):
        root = tempfile.TemporaryDirectory()
        self.addCleanup(root.cleanup)
        self.folder = pathlib.Path(root.name)
        self.out = self.folder / "out"

    def run_in_folder(self, program, words, code=0, timeout=600):
        """Runs the program, expects the exit code and returns the output."""
        result = subprocess.run([program, *map(str, words)], cwd=self.folder, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=timeout)
        self.assertEqual(result.returncode, code, result.stdout)
        return result.stdout

    def run_processes(self, program, *arguments_of_ranks):
        """Runs a process for each list of arguments, as mpirun does. Returns the exit codes and the outputs."""
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        processes = []
        for rank, arguments in enumerate(arguments_of_ranks):
            variables = os.environ | {"OMPI_COMM_WORLD_RANK": str(rank), "OMPI_COMM_WORLD_SIZE": str(len(arguments_of_ranks)),
                                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
            processes.append(subprocess.Popen([program, *map(str, arguments)], cwd=self.folder, env=variables, text=True,
                                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        outputs = [process.communicate(timeout=600)[0] for process in processes]
        if any("built without Gloo" in output for output in outputs):
            self.skipTest("the library was built without Gloo")
        return [process.returncode for process in processes], outputs

    def column(self, folder, name):
        """Returns the numbers of a column of metrics.csv."""
        rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
        return [float(row[rows[0].index(name)] or "nan") for row in rows[1:]]

    def assert_close(self, ours, theirs, tolerance):
        """Compares lists of numbers."""
        self.assertEqual(len(ours), len(theirs))
        for one, two in zip(ours, theirs):
            self.assertAlmostEqual(one, two, delta=tolerance)
