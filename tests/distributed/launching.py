"""Starts groups of processes, and reads what they saved."""
import array
import csv
import json
import os
import pathlib
import socket
import struct
import subprocess

TIMEOUT = 300


class Failure(Exception):
    """A check that failed."""


def must(condition, message):
    if not condition:
        raise Failure(message)


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def clean_environment():
    """The environment without the variables of a launcher, and without CUDA devices: there may be fewer than processes."""
    names = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
    kept = {name: value for name, value in os.environ.items()
            if name not in names and not name.startswith(("OMPI_", "PMI_", "SLURM_", "TORCHELASTIC_"))}
    return kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def launch_variables(kind, rank, size, port, address="127.0.0.1"):
    """The variables that a launcher gives a process."""
    names = {"torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
             "open_mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
             "mpich": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
             "slurm": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")}[kind]
    return dict(zip(names, (str(rank), str(size), str(rank)))) | {"MASTER_ADDR": address, "MASTER_PORT": str(port)}


class Process:
    def __init__(self, command, variables, **options):
        self.process = subprocess.Popen([str(word) for word in command], env=clean_environment() | variables, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
        self.output = ""

    def wait(self, timeout=TIMEOUT):
        try:
            self.output = self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.output = self.process.communicate()[0]
            raise Failure(f"a process did not end within {timeout} s:\n{self.output}") from None
        return self.process.returncode


def line_of(case):
    return " ".join(f"{key}={value}" for key, value in case.items())


class Group:
    """Processes of the driver that a script starts as mpirun or srun does."""

    def __init__(self, driver, folder, cases, size=2, kind="open_mpi", preexec=None, environment=None):
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "cases.txt"
        file.write_text("".join(line_of(case) + "\n" for case in cases))
        port = free_port()
        self.processes = []
        for rank in range(size):
            variables = (launch_variables(kind, rank, size, port) if size > 1 else {}) | (environment or {})
            options = {"preexec_fn": preexec} if preexec and rank == 0 else {}
            self.processes.append(Process([driver, file], variables, **options))

    def wait(self, timeout=TIMEOUT):
        """Returns the exit codes."""
        return [process.wait(timeout) for process in self.processes]

    def output(self):
        return "".join(f"--- process {rank}\n{process.output}" for rank, process in enumerate(self.processes))


def torchrun(python, size, command, *options):
    return Process([python, "-m", "torch.distributed.run", "--nproc-per-node", size, "--master-addr", "127.0.0.1",
                    "--master-port", free_port(), *options, *command], {})


def read_tensors(path):
    """Reads the float32 tensors of a safetensors file."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        must(entry["dtype"] == "F32", f"{path}: {name} is {entry['dtype']}")
        begin, end = entry["data_offsets"]
        tensors[name] = array.array("f", data[8 + size + begin:8 + size + end])
    return tensors


def largest_difference(first, second, is_relative=False):
    """Returns the largest difference of two numbers. If it is relative, numbers above 1 are divided by themselves."""
    must(list(first) == list(second), f"other tensors: {list(first)} and {list(second)}")
    return max(abs(a - b) / (max(1, abs(b)) if is_relative else 1) for name in first for a, b in zip(first[name], second[name]))


def column_of(out, name):
    """The numbers of a column of metrics.csv."""
    with open(pathlib.Path(out) / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def losses(out):
    return column_of(out, "loss")


def require_equal_columns(ours, theirs, tolerance, what):
    """Compares numbers with a tolerance that is relative to the largest of them."""
    must(len(ours) == len(theirs) and any(theirs), f"{what}: {ours}, expected {theirs}")
    worst = max(abs(a - b) for a, b in zip(ours, theirs)) / max(map(abs, theirs))
    must(worst <= tolerance, f"{what}: {ours}, expected {theirs}, differ by {worst:.2e}")


def require_equal_losses(ours, theirs, tolerance, what):
    must(len(ours) == len(theirs) and ours, f"{what}: {len(ours)} losses, expected {len(theirs)}")
    worst = max(abs(a - b) for a, b in zip(ours, theirs))
    must(worst <= tolerance, f"{what}: the losses differ by {worst:.2e}")
    return worst
