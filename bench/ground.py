"""What the measurements stand on: the C programs, the inits to compare, and an init that runs while we look at it."""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = {"tini": ["tini", "--"], "dumb-init": ["dumb-init", "--"], "catatonit": ["catatonit", "--"]}
OURS = "clusterinit"
FLOOR = "plain C"


class Ground:
    """A folder with the benchmark's programs, built from `src/`."""

    def __init__(self, binary):
        self.binary = Path(binary).resolve()
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))
        for source in sorted((HERE / "src").glob("*.c")):
            subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", self.folder / source.stem, source], check=True)
        self.files = 0

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def program(self, name):
        return str(self.folder / name)

    def file(self):
        """The path of a file that is not there yet."""
        self.files += 1
        return self.folder / f"file-{self.files}"

    def inits(self):
        """Name to command, for one worker that is not replaced; peers that are not installed are left out."""
        found = {FLOOR: [self.program("floor")]}
        found.update({name: command for name, command in PEERS.items() if shutil.which(command[0])})
        found[OURS] = [str(self.binary), "--"]
        return found

    def launch(self, *words, **settings):
        """The finished `launch`; settings are clusterinit's, without the prefix."""
        command = [self.program("launch"), *map(str, words)]
        return subprocess.run(command, env=environment(settings), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    @contextlib.contextmanager
    def running(self, init, *worker, **settings):
        """An init as PID 1 of its own namespaces, with `worker FILE ...` as its workers, until the block ends."""
        told, log = self.file(), self.file()
        kind, *rest = worker
        command = [self.program("launch"), "stay", told, *init, self.program("worker"), log, kind, *rest]
        with open(os.devnull, "r+b") as nothing:
            process = subprocess.Popen(list(map(str, command)), env=environment(settings), stdin=nothing, stdout=nothing, stderr=nothing)
        try:
            until(lambda: told.exists() and told.read_text().endswith("\n"), "the init runs")
            exec_ns, pid = map(int, told.read_text().split())
            yield Running(pid, exec_ns, log)
        finally:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(told.read_text().split()[1]), 9)
            process.wait(30)


class Running:
    """PID 1 of a namespace, seen from the host."""

    def __init__(self, pid, exec_ns, log):
        self.pid, self.exec_ns, self.log = pid, exec_ns, log

    def starts(self):
        """When each worker so far began to run, in ns, in the order of their own lines."""
        text = self.log.read_text() if self.log.exists() else ""
        return [int(line.split()[0]) for line in text.splitlines() if " " in line]

    def workers(self):
        return [int(pid) for task in self.tasks() for pid in (task / "children").read_text().split()]

    def tasks(self):
        return list(Path(f"/proc/{self.pid}/task").iterdir())

    def wakeups(self):
        lines = (line for task in self.tasks() for line in (task / "status").read_text().splitlines())
        return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))

    def cpu_ns(self):
        return sum(int((task / "schedstat").read_text().split()[0]) for task in self.tasks())

    def memory_kib(self):
        """Resident and anonymous."""
        rows = (line.split() for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines())
        sizes = {row[0]: int(row[1]) for row in rows if len(row) == 3 and row[2] == "kB"}
        return sizes["Rss:"], sizes["Anonymous:"]

    def enter(self, *command, namespaces="-n"):
        return ["nsenter", "-t", str(self.pid), *namespaces.split(), "--", *map(str, command)]

    def ready(self):
        """How many workers the side port calls ready."""
        command = self.enter("curl", "-sf", "--max-time", "5", "http://127.0.0.1:9180/workers")
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            return 0
        return sum(row["state"] == "ready" for row in json.loads(answer.stdout)["workers"])


def environment(settings):
    own = {f"CLUSTERINIT_{name}": str(value) for name, value in settings.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTERINIT_")}
    return {**kept, "CLUSTERINIT_LOG": "error", **own}


def until(condition, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.0002)


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
