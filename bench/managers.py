"""Who runs two workers of a Node program: clusterinit, Node's own cluster, PM2. Each in namespaces of its own, seen from the host."""
import contextlib
import ctypes
import os
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ground import until
from serving import PORT, REPOSITORY, serving

SOURCES = Path(__file__).resolve().parent / "src"
NODE = shutil.which("node") or "node"
WORKERS = 2

OURS, OURS_RR = "default", "round robin"
NODE_RR, NODE_NONE, PM2 = "Node rr", "Node none", "PM2"
POLICIES = {OURS_RR: "rr", NODE_RR: "rr", NODE_NONE: "none"}
OUR_MODES, PEERS = [OURS, OURS_RR], [NODE_RR, NODE_NONE, PM2]
ALL = OUR_MODES + PEERS
CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def managed(ground, name, script, **values):
    """Two workers of a script of `src/`, with `values` in their environment, until the block ends."""
    script, home = str(SOURCES / script), ground.file()
    values = {"PORT": PORT, "DELAY": 0, "PM2_HOME": home, **values}
    if name in POLICIES:
        values["NODE_CLUSTER_SCHED_POLICY"] = POLICIES[name]
    env = ["env", "-u", "NODE_OPTIONS", *(f"{key}={value}" for key, value in values.items())]
    if name == PM2:
        ready = ["--wait-ready"] if "graceful" in script else []
        start = [pm2(), "start", script, "--name", "app", "-i", str(WORKERS), *ready]
        # The daemon leaves its starter and becomes a child of PID 1, with which all of it ends.
        line = ["sh", "-c", '"$@" && exec sleep 86400', "sh", *start]
    elif name in OUR_MODES:
        line = [str(ground.binary), "--", NODE, script]
    else:
        line = [NODE, SOURCES / "node_cluster.js", script]
    # Bare: clusterinit too is on the line already, because the policy belongs in its environment.
    with serving(ground, [*env, *line], bare=True, WORKERS=WORKERS, NODE_IPC="auto") as server:
        one = Managed(name, server, env)
        until(lambda: one.manager() and len(one.workers()) == WORKERS, f"{name} has its workers", 30)
        if name in OUR_MODES:
            server.all_ready(WORKERS)
            if (mechanism := server.workers_state()["share"]["mechanism"]) != "node":
                raise RuntimeError(f"Node's protocol is not in force: {mechanism}")
        yield one


class Managed:
    """A manager and its workers. All pids are as the host counts."""

    def __init__(self, name, server, env):
        self.name, self.server, self.env = name, server, env

    def manager(self):
        """PID 1, but with PM2 its only child, the daemon, when the command that started it has ended."""
        if self.name != PM2:
            return self.server.pid
        started = Path(f"/proc/{self.server.pid}/comm").read_text() == "sleep\n"
        return children(self.server.pid)[0] if started else None

    def workers(self):
        return children(self.manager())

    def memory_kib(self):
        return memory_kib(self.manager())

    def kill_one(self, victim):
        """Kills a worker and waits until another process has its place."""
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in self.workers() and len(self.workers()) == WORKERS, f"{self.name} replaces a worker", 20)

    def roll(self, patience):
        """A rolling restart; whether it was over within `patience` seconds. Of clusterinit that is demanded."""
        old = set(self.workers())
        if self.name in OUR_MODES:
            self.server.reload(WORKERS)
            return True
        if self.name == PM2:
            command = self.server.enter(*self.env, pm2(), "reload", "app", namespaces="-n -p -m")
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=True)
        else:
            os.kill(self.server.pid, signal.SIGUSR2)
        with contextlib.suppress(TimeoutError):
            until(lambda: len(self.workers()) == WORKERS and not old & set(self.workers()), "all are new", patience)
            return True
        return False

    @contextlib.contextmanager
    def network(self):
        """A thread in the network of the workers."""

        def enter():
            with open(f"/proc/{self.server.pid}/ns/net") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                    raise OSError("setns")

        with ThreadPoolExecutor(1, initializer=enter) as thread:
            yield thread


def first_answer(old, began, patience=30):
    """Seconds from `began` until a process answers that is none of `old` (pids as the workers count).

    A new connection every 2 ms: one that is lost with a worker, or waits for the next one, holds up no other."""
    waiting = selectors.DefaultSelector()
    with contextlib.ExitStack() as stack:
        while time.monotonic() < began + patience:
            with contextlib.suppress(OSError):
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", PORT), 1))
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                waiting.register(connection, selectors.EVENT_READ)
            due = time.monotonic() + 0.002
            while (left := due - time.monotonic()) > 0:
                for key, _ in waiting.select(left):
                    waiting.unregister(key.fileobj)
                    if answered(key.fileobj) not in {None, *old}:
                        return time.monotonic() - began
    raise TimeoutError(f"no successor answers within {patience} s")


def answered(connection):
    """The pid in an answer, which is one segment; None where the connection broke. It is closed."""
    with contextlib.suppress(OSError), connection:
        pid = re.search(rb"pid (\d+)", connection.recv(4096))
        return int(pid[1]) if pid else None


def children(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        # A thread may end while we look.
        with contextlib.suppress(FileNotFoundError):
            found += map(int, (task / "children").read_text().split())
    return found


def own_pid(pid):
    """The pid of a process as it sees it itself."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^NSpid:.*\t(\d+)$", status, re.MULTILINE)[1])


def memory_kib(pid):
    return int(re.search(r"^Rss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)[1])


def pm2():
    """The command; with the other packages for Node it is installed below the target folder when it is first needed."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
    command = target / "node-packages/node_modules/.bin/pm2"
    if not command.exists():
        subprocess.run([REPOSITORY / ".ci/install", "node"], stdout=sys.stderr, timeout=600, check=True)
    return str(command)
