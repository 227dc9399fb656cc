"""Servers on a port in namespaces of their own, with or without clusterinit, and load on them."""
import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from ground import Running, environment, until

REPOSITORY = Path(__file__).resolve().parents[1]
SERVERS = REPOSITORY / "tests/e2e/share/servers"
PORT = 8080
# Without it wrk's ports run out: a closed connection keeps its port for a minute.
MANY_PORTS = "1024 65535"


class Server(Running):
    """PID 1 of a namespace that serves `PORT`."""

    def workers_state(self):
        answer = subprocess.run(self.enter("curl", "-sf", "--max-time", "5", "http://127.0.0.1:9180/workers"), capture_output=True, check=False)
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def all_ready(self, count):
        """Until this many workers are ready and no other row is left; returns the rows."""
        rows = []

        def seen():
            state = self.workers_state()
            rows[:] = state["workers"] if state else []
            return len(rows) == count and all(row["state"] == "ready" for row in rows)

        until(seen, f"{count} workers are ready", 30)
        return rows

    def shares(self):
        state = self.workers_state()
        if state["share"]["mechanism"] != "seccomp":
            raise RuntimeError(f"ports are not shared: {state['share']}")

    def reload(self, count):
        before = self.workers_state()["generation"]
        os.kill(self.pid, 12)  # SIGUSR2

        def done():
            state = self.workers_state()
            if state and state["reload"]["state"] == "aborted":
                raise RuntimeError(f"the reload was aborted: {state['reload']['reason']}")
            return state and state["generation"] == before + 1 and state["reload"]["state"] == "done"

        until(done, "the reload is done", 60)
        self.all_ready(count)

    def answers(self):
        command = self.enter("curl", "-sf", "--max-time", "2", f"http://127.0.0.1:{PORT}/")
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def wrk(self, seconds, *words):
        """Requests per second."""
        command = self.enter("wrk", "-t1", "-c32", f"-d{seconds}s", *words, f"http://127.0.0.1:{PORT}/")
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if errors := re.search(r"Non-2xx.*|Socket errors: (?!connect 0, read \d+, write 0, timeout 0).*", text):
            raise RuntimeError(errors[0])
        return float(re.search(r"Requests/sec: +([\d.]+)", text)[1])

    @contextlib.contextmanager
    def load(self, *words):
        """The load client, stopped by `finish()` of what it yields, or with the block."""
        load = Load(self.enter(load_client(), f"127.0.0.1:{PORT}", *words))
        try:
            yield load
        finally:
            load.process.kill()
            load.process.communicate()


class Load:
    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "loading\n":
            raise RuntimeError("the load client does not run")

    def finish(self):
        return json.loads(self.process.communicate(timeout=90)[0])


def load_client():
    """examples/load.rs, built when first asked for."""
    folder = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "debug/examples"
    if not hasattr(load_client, "built"):
        subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "load"], cwd=REPOSITORY, check=True)
        load_client.built = True
    return str(folder / "load")


def go_server(ground):
    """The static Go server of the tests."""
    program = Path(ground.program("goserver"))
    if not program.exists():
        own = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOCACHE": ground.program("gocache"),
               "GOPATH": ground.program("gopath")}
        subprocess.run(["go", "build", "-o", program, SERVERS / "server.go"], env={**os.environ, **own}, check=True)
    return str(program)


def command(ground, name, wait, *words):
    """One of the test servers on `PORT`, with answers that take `wait` ms."""
    commands = {
        "go": [go_server(ground), f":{PORT}", f"wait={wait}ms"],
        "python": ["/usr/bin/python3", str(SERVERS / "threads.py"), str(PORT), f"wait={wait}"],
        "node": [shutil.which("node") or "node", str(SERVERS / "server.js"), str(PORT), f"wait={wait}"],
    }
    return [*commands[name], *words]


@contextlib.contextmanager
def serving(ground, words, *, bare=False, **settings):
    """A command as PID 1 of its own namespaces, under clusterinit or bare, until the block ends."""
    told, log = ground.file(), ground.file()
    front = [] if bare else [str(ground.binary), "--"]
    line = [ground.program("launch"), "stay", told, *front, *words]
    settings = {"NODE_IPC": "off", "WORKER_MEMORY": "off", **settings}
    with log.open("w") as out, open(os.devnull, "rb") as nothing:
        process = subprocess.Popen(list(map(str, line)), env=environment(settings), stdin=nothing, stdout=out, stderr=out)
    try:
        until(lambda: told.exists() and told.read_text().endswith("\n"), "the server runs")
        exec_ns, pid = map(int, told.read_text().split())
        server = Server(pid, exec_ns, log)
        widen = ["sh", "-c", f"echo {MANY_PORTS} >/proc/sys/net/ipv4/ip_local_port_range; echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse"]
        subprocess.run(server.enter(*widen), check=True)
        if bare:
            until(server.answers, "it answers")
        else:
            server.all_ready(settings["WORKERS"])
        yield server
    except Exception as error:
        error.add_note(f"it said: {log.read_text()[-800:]}")
        raise
    finally:
        with contextlib.suppress(OSError, ValueError, IndexError):
            os.kill(int(told.read_text().split()[1]), 9)
        process.wait(30)

