#!/usr/bin/env python3
"""tests/soak.py BINARY EXAMPLES [MINUTES=10] [SEED]: a cluster under load with random kills, reloads and scales, and what it cost.

clusterinit is PID 1 of a namespace (user namespaces suffice, no root), its workers are the model server, and examples/load asks it
all the time over loopback. Fails if a request fails that no kill explains, if PID 1 holds more memory or descriptors at the end than
after the first minute, if a zombie is left, or if the stop is not prompt with status 0.
"""
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

WORKERS = 4
CLIENTS = 8
MOST_MEMORY_KIB = 1024  # more than at the beginning
MOST_DESCRIPTORS = 2  # more than at the beginning, with as many workers: a client of the side port may have just gone
PROMPT = 10.0  # seconds for the stop
PATIENCE = 60.0  # seconds for a cluster to come to rest
CHANGES = {"kill": 6, "reload": 2, "more": 2, "fewer": 2, "nothing": 1}  # how often, relative to each other


class Cluster:
    """PID 1 of its own PID namespace, seen from outside: signals and /proc, and the side port for what it says itself."""

    def __init__(self, binary, examples, folder):
        self.port, self.side = free_port(), free_port()
        settings = {"WORKERS": WORKERS, "HEALTH_ADDR": f"127.0.0.1:{self.side}", "LOG": "info"}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTERINIT_")}
        environment |= {f"CLUSTERINIT_{name}": str(value) for name, value in settings.items()} | {"PORT": str(self.port)}
        self.log = folder / "log"
        with self.log.open("w") as log:
            namespaces = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
            self.outer = subprocess.Popen(
                [*namespaces, binary, "--", examples / "server"], env=environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.pid = until("PID 1 runs", lambda: next(iter(children(self.outer.pid)), None))

    def state(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.side}/workers", timeout=5) as answer:
            return json.load(answer)
        return None

    def at_rest(self, count=None):
        """All slots ready, and no reload under way."""
        def seen():
            if self.outer.poll() is not None:
                raise Wrong(f"clusterinit ended with {self.outer.returncode}")
            state = self.state()
            rows = state and state["workers"]
            rest = rows and all(row["state"] == "ready" for row in rows) and (state["reload"] or {}).get("state") != "running"
            return rest and (count is None or len(rows) == count) and state
        return until("the cluster comes to rest", seen)

    def signal(self, number):
        os.kill(self.pid, number)

    def figures(self):
        """Resident KiB and descriptors of PID 1."""
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{self.pid}/status").read_text().splitlines())
        return int(fields["VmRSS"].split()[0]), len(os.listdir(f"/proc/{self.pid}/fd"))

    def zombies(self):
        stats = (Path(f"/proc/{pid}/stat").read_text() for pid in children(self.pid))
        return sum(stat.rpartition(")")[2].split()[0] == "Z" for stat in stats)

    def stop(self):
        began = time.monotonic()
        self.signal(signal.SIGTERM)
        return self.outer.wait(PATIENCE), time.monotonic() - began

    def close(self):
        if self.outer.poll() is None:
            self.outer.kill()  # --kill-child: PID 1 goes with it, and all of its namespace with PID 1
            self.outer.wait()


class Wrong(Exception):
    """The soak has found something."""


def main(words):
    if len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    binary, examples = Path(words[0]).resolve(), Path(words[1]).resolve()
    minutes = float(words[2]) if len(words) > 2 else 10.0
    seed = int(words[3]) if len(words) > 3 else random.SystemRandom().randrange(1 << 32)
    print(f"{minutes:g} min, seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, contextlib.ExitStack() as stack:
        cluster = Cluster(binary, examples, Path(folder))
        stack.callback(cluster.close)
        try:
            soak(cluster, examples, minutes * 60, random.Random(seed))
        except Wrong as why:
            print(f"WRONG: {why}\nthe log ends:\n{cluster.log.read_text(errors='replace')[-3000:]}")
            return 1
    return 0


def soak(cluster, examples, seconds, dice):
    cluster.at_rest(WORKERS)
    client = subprocess.Popen([examples / "load", f"127.0.0.1:{cluster.port}", f"clients={CLIENTS}", "mode=keep", "think=5ms"],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        client.stdout.readline()
        # The first of everything is part of the beginning: what it makes is kept.
        began = time.monotonic()
        first = disturb(cluster, dice, min(60.0, seconds / 4))
        memory, descriptors = settled(cluster)
        told = disturb(cluster, dice, seconds - (time.monotonic() - began))
        memory_at_end, descriptors_at_end = settled(cluster)
        seen = json.loads(client.communicate(timeout=60)[0])
    finally:
        client.kill()
        client.communicate()
    zombies = cluster.zombies()
    status, took = cluster.stop()
    kills = first["kill"] + told["kill"]
    print(f"changes: {', '.join(f'{name} {first[name] + told[name]}' for name in CHANGES)}")
    worst = seen["worst_us"] / 1000
    print(f"requests: {seen['ok']} answered, {seen['failed']} failed, {seen['retried']} sent again by their clients; worst {worst:.0f} ms")
    print(f"PID 1: resident {memory} -> {memory_at_end} KiB, descriptors {descriptors} -> {descriptors_at_end}; zombies {zombies}")
    print(f"stop: status {status} after {took:.1f} s", flush=True)
    # A kill costs at most what each client had open.
    require("failed requests", seen["failed"], kills * CLIENTS)
    require("refused connections", seen["refused"] + seen["timeout"], 0)
    require("memory, KiB", memory_at_end, memory + MOST_MEMORY_KIB)
    require("descriptors", descriptors_at_end, descriptors + MOST_DESCRIPTORS)
    require("zombies", zombies, 0)
    require("exit status", status, 0)
    require("seconds for the stop", took, PROMPT)


def disturb(cluster, dice, seconds):
    """Changes at random, for so long; how many of each."""
    told = dict.fromkeys(CHANGES, 0)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        change = dice.choices(list(CHANGES), list(CHANGES.values()))[0]
        told[change] += 1
        match change:
            case "kill":
                # All of its tree is this one process; one that has just ended is no loss.
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(dice.choice(children(cluster.pid)), signal.SIGKILL)
            case "reload":
                cluster.signal(signal.SIGUSR2)
            case "more":
                cluster.signal(signal.SIGTTIN)
            case "fewer":
                cluster.signal(signal.SIGTTOU)
        time.sleep(min(left, dice.expovariate(1 / 0.7)))
        if cluster.outer.poll() is not None:
            raise Wrong(f"clusterinit ended with {cluster.outer.returncode}")
    return told


def settled(cluster):
    """The figures of a cluster at rest that has its first number of workers again."""
    def resized():
        count = len(cluster.at_rest()["workers"])
        if count != WORKERS:
            cluster.signal(signal.SIGTTIN if count < WORKERS else signal.SIGTTOU)
            time.sleep(0.2)
        return count == WORKERS

    until(f"{WORKERS} workers again", resized)
    # What was freed goes back at the end of a turn; the last connections of the ones that went close.
    time.sleep(1)
    return cluster.figures()


def require(what, found, most):
    if found > most:
        raise Wrong(f"{what}: {found}, more than {most}")


def children(pid):
    with contextlib.suppress(FileNotFoundError):
        return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return []


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def until(what, condition, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise Wrong(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
