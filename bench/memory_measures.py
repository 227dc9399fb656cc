"""The measurements of memory caps. Each is a function of the ground that returns rows: (what, seen, compared with, target)."""
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ground import OURS, until
from serving import PORT, REPOSITORY, serving
from share_measures import told
from table import TARGET

sys.path.append(str(REPOSITORY / "tests/containers"))
from lab import Lab, ready_rows  # noqa: E402
from memory_tests import CALM, THREE, TWO, eating  # noqa: E402
from vm import Vm  # noqa: E402

MIB = 1 << 20
CAP = 128
MOST = 176  # MiB; the target of a worker that nobody but PID 1 holds back
# What the rules keep free: caps and reserve of three workers.
LIMIT = 3 * CAP + 36
LEAKY = REPOSITORY / "examples/leaky"


@contextlib.contextmanager
def containers(ground):
    """The ground of the container tests, with the static `eats`."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "eats", "--target", TARGET], cwd=REPOSITORY, check=True)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    lab = Lab(ground.binary, folder / TARGET / "debug/examples")
    try:
        yield lab
    finally:
        lab.close()


class Rounds:
    """Worker 0 is told to take memory as fast as it can, again and again, and the others must never notice."""

    def __init__(self, container):
        self.container = container
        self.others = self.those_but_0(container.ready(3))
        self.killed, self.harmed, self.read = 0, 0, 0
        self.took = []

    @staticmethod
    def those_but_0(status):
        return {row["id"]: row["pid"] for row in status["workers"] if row["id"] != 0}

    def round(self):
        """Its own account of what it had when it died, in MiB; it tells each of them after writing to it."""
        before = self.of_0(self.container.status())
        self.container.kill("USR1")
        after = self.container.until_status("a successor", lambda status: self.is_replaced(status, before), 60)
        self.killed += self.of_0(after)["last_exit"]["reason"] == "memory"
        self.harmed += self.those_but_0(after) != self.others
        text = self.container.output()
        self.took.append(max(map(int, re.findall(r"^took (\d+)$", text[self.read:], re.M)), default=0))
        self.read = len(text)

    @staticmethod
    def of_0(status):
        return next(row for row in status["workers"] if row["id"] == 0)

    def is_replaced(self, status, before):
        rows = ready_rows(status)
        # Ready for a second: else its end is a failing start, and waits.
        return len(rows) == 3 and all(row["uptime_seconds"] > 2.1 for row in rows) and self.of_0(status)["pid"] != before["pid"]

    def text(self, figures):
        figures = sorted(figures)
        return f"median {statistics.median(figures):.0f}, most {figures[-1]:.0f} MiB"

    def survivors(self):
        return f"{self.killed} of {len(self.took)} for memory, others or PID 1 harmed: {self.harmed}"


def overshoot(ground, scale):
    """Read-only cgroups, runc on this machine: what the container was charged at most, less what it was charged before."""
    runs, peaks = max(2, scale(20)), []
    env = [*THREE, f"CLUSTERINIT_WORKER_MEMORY={CAP}Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with containers(ground) as lab, eating(lab, "slot=0", workers=3, memory=LIMIT, env=env) as c:
        rounds = Rounds(c)
        for _ in range(runs):
            before = memory_file(c, "current").read_text()
            reset_peak(c)
            rounds.round()
            peaks.append((int(memory_file(c, "peak").read_text()) - int(before)) / MIB)
        c.kill("TERM")
        c.wait()
    good = sum(peak <= MOST for peak in peaks)
    return [
        (f"takes all it can, cap {CAP} MiB, read-only cgroups: charged at its death", rounds.text(peaks), f"by its own account {rounds.text(rounds.took)}", ""),
        (f"… at most {MOST} MiB", f"{good} of {runs}", "", "19 of 20"),
        ("… killed", rounds.survivors(), "", "all; 0"),
    ]


V1 = {"current": "memory.usage_in_bytes", "peak": "memory.max_usage_in_bytes"}


def memory_file(c, name):
    v1 = Path("/sys/fs/cgroup/memory")
    return v1 / c.cgroup.lstrip("/") / V1[name] if v1.exists() else Path("/sys/fs/cgroup", c.cgroup.lstrip("/"), f"memory.{name}")


def reset_peak(c):
    """The kernel's figure is of all time until somebody writes to it (v2: since 6.12, and for the writer's descriptor only)."""
    if memory_file(c, "peak").name == V1["peak"]:
        memory_file(c, "peak").write_text("0")


def kernel(ground, scale):
    """Writable cgroups, in the machine with cgroup v2, where the kernel would kill the whole container: peak of all rounds."""
    runs, rows = max(2, scale(20)), []
    env = [*THREE, f"CLUSTERINIT_WORKER_MEMORY={CAP}Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with containers(ground) as lab, contextlib.closing(Vm(lab)) as vm:
        for kind, options in (("writable", {"rw_cgroup": True, "uid": 0}), ("read-only", {})):
            with eating(vm, "slot=0", workers=3, memory=LIMIT, oom_group=1, env=env, **options) as c:
                rounds, before = Rounds(c), int(c.file("memory.current"))
                by = c.status()["memory"]["enforced_by"]
                for _ in range(runs):
                    rounds.round()
                peak = (int(c.file("memory.peak")) - before) / MIB
                c.kill("TERM")
                c.wait()
            if kind == "writable":
                what = f"the same, {kind} cgroups ({by}): charged at most in {runs} runs"
                rows.append((what, f"{peak:.1f} MiB", f"by its own account {rounds.text(rounds.took)}", f"≤ {CAP + 4} MiB"))
            rows.append((f"… {kind} cgroups ({by}), emulated, memory.oom.group=1: killed", rounds.survivors(), "", "all; 0"))
    return rows


def rest(ground, scale):
    """16 workers that do nothing, far from their caps: CPU time and wake-ups of PID 1."""
    seconds, seen = max(3, scale(20)), {}
    kinds = {"off": "off", "2Gi": "1.25 GiB or more below", "256Mi": "near enough for a look now and then"}
    with contextlib.ExitStack() as stack:
        inits = {}
        for cap in kinds:
            settings = {"WORKERS": 16, "READY": "notify", "WORKER_MEMORY": cap}
            inits[cap] = stack.enter_context(ground.running(ground.inits()[OURS], "stay", **settings))
        until(lambda: all(init.ready() == 16 for init in inits.values()), "all workers are ready")
        time.sleep(4)
        before = {cap: (init.cpu_ns(), init.wakeups()) for cap, init in inits.items()}
        time.sleep(seconds)
        for cap, init in inits.items():
            cpu, wakeups = before[cap]
            seen[cap] = (init.cpu_ns() - cpu) / seconds / 1e7, (init.wakeups() - wakeups) / seconds
    percent, rate = (lambda cap: f"{seen[cap][0]:.3f} %"), (lambda cap: f"{seen[cap][1]:.1f}")
    return [
        ("16 workers at rest, cap 2 GiB: CPU of PID 1", percent("2Gi"), f"caps off {percent('off')}", "≤ 0.1 % of a core"),
        ("… wake-ups per second", rate("2Gi"), f"caps off {rate('off')}", "≤ 2"),
        ("16 workers at rest, cap 256 MiB: CPU of PID 1", percent("256Mi"), "", "≤ 0.1 % of a core"),
        ("… wake-ups per second", rate("256Mi"), "", ""),
    ]


def resize(ground, scale):
    """A limit file is written, as kubelet and `docker update` do, until /workers says what follows from it."""
    steps, counts = max(2, scale(20)), []
    with containers(ground) as lab:
        for _ in range(steps):
            with lab.container("/eats", quota=100_000, env=CALM) as c:
                c.ready(1)
                quota = limit_file(c, "cpu")
                counts.append(latency(c, lambda quota=quota: write(quota, 150_000), lambda status: len(status["workers"]) == 2))
        with lab.container("/eats", memory=512, env=TWO) as c:
            c.ready(2)
            limit = limit_file(c, "memory")
            caps = [latency(c, lambda size=size: write(limit, size * MIB), cap_is((size - 32) // 2 * MIB))
                    for size in range(576, 576 + 64 * steps, 64)]
    row = lambda what, took: (what, f"median {statistics.median(took) * 1000:.0f} ms, worst {max(took) * 1000:.0f} ms of {len(took)}", "", "≤ 1 s")
    return [row("CPU limit 1 → 1.5: a second worker", counts), row("memory limit + 64 MiB: new caps", caps)]


def cap_is(wanted):
    return lambda status: status["memory"]["worker_cap_bytes"] == wanted


def limit_file(c, controller):
    v1 = {"cpu": "cpu/{}/cpu.cfs_quota_us", "memory": "memory/{}/memory.limit_in_bytes"}[controller]
    at = Path("/sys/fs/cgroup", v1.format(c.cgroup.lstrip("/")))
    return at if at.exists() else Path("/sys/fs/cgroup", c.cgroup.lstrip("/"), f"{controller}.max")


def write(file, number):
    file.write_text(f"{number} 100000" if file.name == "cpu.max" else str(number))


def latency(c, change, condition):
    """Seconds until the side port says so; to ask it takes some of them."""
    ask = ["nsenter", "-t", str(c.pid()), "-n", "curl", "-s", "--max-time", "5", "http://127.0.0.1:9180/workers"]

    def seen():
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        return answer.returncode == 0 and condition(json.loads(answer.stdout))

    began = time.monotonic()
    change()
    until(seen, "the new limit is in force")
    return time.monotonic() - began


def soft(ground, scale):
    """Real servers that leak under load, until each of two workers has been replaced."""
    rows = []
    leaks = {"python": ("128Mi", 10), "go": ("128Mi", 10), "node": ("192Mi", 12), "java": ("320Mi", 16)}
    for name, (cap, rate) in leaks.items():
        seen = {"ok": 0, "failed": 0, "retried": 0, "reset": 0, "eof": 0, "refused": 0, "timeout": 0, "other": 0}
        runs = max(1, scale(5))
        for _ in range(runs):
            for cause, count in replaced_under_load(ground, leaky(ground, name), cap, rate).items():
                if cause in seen:
                    seen[cause] += count
        rows.append((f"{name} leaks {rate} MiB/s, cap {cap}, MEMORY_SOFT=60%: {2 * runs} workers replaced under load", told(seen), "", "0 failed"))
    return rows


def replaced_under_load(ground, words, cap, rate):
    leak = {"PORT": str(PORT), "LEAK_KIB": "4", "LEAK_MIB_PER_SECOND": str(rate)}
    os.environ.update(leak)
    try:
        with serving(ground, words, WORKERS=2, WORKER_MEMORY=cap, MEMORY_SOFT="60%") as server:
            server.shares()
            with server.load("clients=8", "think=5ms") as load:
                until(lambda: all(row["restarts"] == 1 for row in server.all_ready(2)), "each was replaced", 120)
                seen, rows = load.finish(), server.all_ready(2)
    finally:
        for variable in leak:
            del os.environ[variable]
    ends = [row["last_exit"] for row in rows]
    if any(end["reason"] != "memory" or end["signal"] == "SIGKILL" for end in ends):
        raise RuntimeError(f"not replaced gracefully for memory: {ends}")
    return seen


def leaky(ground, name):
    if name == "go":
        program = ground.program("leakygo")
        own = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOCACHE": ground.program("gocache"),
               "GOPATH": ground.program("gopath")}
        subprocess.run(["go", "build", "-o", program, LEAKY / "leaky.go"], env={**os.environ, **own}, check=True)
        return [program]
    if name == "java":
        subprocess.run(["javac", "-d", ground.folder, LEAKY / "Leaky.java"], check=True)
        return [shutil.which("java"), "-Xmx1g", "-XX:+UseSerialGC", "-cp", ground.folder, "Leaky"]
    return {"python": ["/usr/bin/python3", LEAKY / "leaky.py"], "node": [shutil.which("node") or "node", LEAKY / "leaky.js"]}[name]


ALL = [overshoot, kernel, rest, resize, soft]
