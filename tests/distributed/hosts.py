"""Two hosts in network namespaces of one machine, connected by a virtual cable."""
import os
import shutil
import subprocess
import time

from launching import Process, launch_variables, line_of, must

ADDRESSES = ("10.213.0.1", "10.213.0.2")
PORT = 29500


class Hosts:
    """Makes the namespaces; `error` says why they cannot be made."""

    def __init__(self):
        self.names = [f"diffusers-{os.getpid()}-{number}" for number in range(2)]
        self.error = ""

    def __enter__(self):
        try:
            for name in self.names:
                self.ip("netns", "add", name)
            self.ip("-n", self.names[0], "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns",
                    self.names[1])
            for number, (name, address) in enumerate(zip(self.names, ADDRESSES)):
                self.ip("-n", name, "addr", "add", f"{address}/24", "dev", f"cable{number}")
                self.ip("-n", name, "link", "set", "lo", "up")
                self.ip("-n", name, "link", "set", f"cable{number}", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            self.error = f"network namespaces cannot be made ({error})"
        return self

    def __exit__(self, *_):
        for name in self.names:
            if shutil.which("ip"):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)

    @staticmethod
    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    def start(self, driver, file, address=ADDRESSES[0]):
        processes = []
        for rank, name in enumerate(self.names):
            variables = launch_variables("torchrun", rank, 2, PORT, address) | {"LOCAL_RANK": "0",
                                                                               "GLOO_SOCKET_IFNAME": f"cable{rank}"}
            processes.append(Process(["ip", "netns", "exec", name, driver, file], variables))
        return processes

    def pull_the_plug(self):
        self.ip("-n", self.names[0], "link", "set", "cable0", "down")


def run(driver, folder):
    """@return why it was skipped, else nothing"""
    common = {"batch": 4, "ema": 1, "timeout": 5}
    with Hosts() as hosts:
        if hosts.error:
            return hosts.error
        short, endless = folder / "hosts.txt", folder / "endless.txt"
        short.write_text(line_of({"name": "hosts", "out": folder / "hosts", "save": folder / "hosts", "steps": 20} | common))
        endless.write_text(line_of({"name": "endless", "out": folder / "endless", "save": folder / "endless",
                                    "steps": 10000000} | common))
        processes = hosts.start(driver, short)
        must([process.wait() for process in processes] == [0, 0], "".join(process.output for process in processes))
        first, second = (folder / f"hosts-rank{rank}.safetensors" for rank in range(2))
        must(first.read_bytes() == second.read_bytes(), "the parameters of the two hosts differ")
        print("two hosts train together")

        processes = hosts.start(driver, endless)
        metrics = folder / "endless" / "metrics.csv"
        for _ in range(600):
            if metrics.exists() and metrics.stat().st_size > 1000:
                break
            time.sleep(0.1)
        hosts.pull_the_plug()
        start = time.monotonic()
        must([process.wait(60) for process in processes] == [1, 1], "".join(process.output for process in processes))
        for process in processes:
            must("lost the others in" in process.output, process.output)
        print(f"packets are dropped between two hosts: both end after {time.monotonic() - start:.0f} s (timeout 5 s)")
    return None
