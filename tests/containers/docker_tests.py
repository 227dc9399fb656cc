"""clusterinit in Docker: the image of our own Dockerfile, an app image on top of it, and what `docker run` users do.

The daemon is private: its own data, socket, and a network namespace with nothing but loopback and a bridge. There is no registry
there, so the image is built from the Dockerfile's last stage, with the static binary in the place of the builder's.
"""
import contextlib
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import LONGEST_WAIT, Failed, Skipped, cpus, expect, expect_in, run, until

STRICT = ["--user", "65532", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
PROMPT = r"/ [#$] "
REPOSITORY = Path(__file__).resolve().parents[2]
APP = """FROM clusterinit
COPY . /
ENV CLUSTERINIT_LISTEN=8080
CMD ["/server"]
"""
JOB = """FROM clusterinit
COPY . /
"""
# What releases set as build arguments; VERSION is the Dockerfile's own.
STAMPS = {"SOURCE": "https://example.org/clusterinit", "REVISION": "0123abc"}
# Asks until there is an answer, and tells when that was.
POLL = """
import socket, sys, time
print("polling", flush=True)
while True:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 1) as client:
            client.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            if client.recv(4096).startswith(b"HTTP/1.1 200"):
                break
    except OSError:
        pass
    time.sleep(0.001)
print(time.monotonic(), flush=True)
"""


class Docker:
    """A daemon of our own, with the images `clusterinit`, `app` (serves) and `job` (no command)."""

    def __init__(self, lab):
        for tool in ("docker", "dockerd", "busybox"):
            if not shutil.which(tool):
                raise Skipped(f"{tool} is not installed")
        self.lab = lab
        # A socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="cid-", dir="/tmp"))
        self.socket = f"unix://{self.folder}/sock"
        self.environment = {**os.environ, "DOCKER_HOST": self.socket, "DOCKER_BUILDKIT": "0"}
        self.environment.pop("DOCKER_CONTEXT", None)
        self.names = 0
        with (self.folder / "log").open("w") as log:
            self.daemon = subprocess.Popen(
                ["unshare", "--net", "sh", "-c", 'ip link set lo up; echo 1 >/proc/sys/net/ipv4/ip_forward; exec "$@"', "sh",
                 "dockerd", "--data-root", self.folder / "data", "--exec-root", self.folder / "exec",
                 "--pidfile", self.folder / "pid", "-H", self.socket],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            until("the Docker daemon answers", self.answers, 60)
            self.build_all()
        except BaseException as error:
            error.add_note("    the daemon said: " + (self.folder / "log").read_text(errors="replace")[-800:])
            self.close()
            raise

    def answers(self):
        if self.daemon.poll() is not None:
            raise Failed(f"dockerd ended with {self.daemon.returncode}")
        return self("version").returncode == 0

    def __call__(self, *words, timeout=60):
        return run("docker", *words, env=self.environment, timeout=timeout)

    def done(self, *words):
        """The stdout of a docker command that has to succeed."""
        answer = self(*words)
        if answer.returncode != 0:
            raise Failed(f"docker {' '.join(map(str, words))}: {answer.returncode}: {answer.stderr[-500:]}")
        return answer.stdout.strip()

    def build_all(self):
        last_stage = re.search(r"^FROM scratch$.*", (REPOSITORY / "Dockerfile").read_text(), re.M | re.S)
        if not last_stage:
            raise Failed("the Dockerfile's last stage is not FROM scratch")
        text, places = re.subn(r"^COPY --from=build \S+/clusterinit ", "COPY clusterinit ", last_stage[0], flags=re.M)
        expect("lines of the last stage that copy the binary", places, 1)
        stamps = [word for name, value in STAMPS.items() for word in ("--build-arg", f"{name}={value}")]
        self.build("clusterinit", text, [self.lab.root / "clusterinit"], *stamps)
        programs = self.lab.programs()
        self.build("app", APP, programs)
        self.build("job", JOB, [*programs, shutil.which("busybox")])

    def build(self, name, dockerfile, files, *words):
        context = self.folder / f"image-{name}"
        context.mkdir()
        (context / "Dockerfile").write_text(dockerfile)
        (context / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
        for file in files:
            shutil.copy(file, context)
        self.done("build", "-q", "-t", name, *words, context)

    @contextlib.contextmanager
    def polling(self, port):
        """A client that asks a published port all the time. Its value tells, by the monotonic clock, when it had the first answer."""
        command = ["nsenter", "-t", str(self.daemon.pid), "-n", "--", sys.executable, "-c", POLL, str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            expect("its first line", process.stdout.readline(), "polling\n")
            yield lambda: float(process.communicate(timeout=LONGEST_WAIT)[0])
        finally:
            process.kill()
            process.communicate()

    @contextlib.contextmanager
    def running(self, *words):
        """A detached container, by name; removed at the end of the block."""
        self.names += 1
        name = f"test-{self.names}"
        self.done("run", "-d", "--name", name, *words)
        try:
            yield name
        except Exception as error:
            answer = self("logs", name)
            error.add_note(f"    its stdout: {answer.stdout[-500:]!r}\n    its stderr: {answer.stderr[-1500:]!r}")
            raise
        finally:
            self("rm", "-f", name)

    def status(self, name):
        answer = self("exec", name, "/clusterinit", "status", "--json")
        return json.loads(answer.stdout) if answer.returncode == 0 else None

    def ready(self, name, count):
        def seen():
            status = self.status(name)
            return status and sum(row["state"] == "ready" for row in status["workers"]) == count and status

        return until(f"{count} ready workers", seen)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(60)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
            self.daemon.wait()
        # The daemon leaves this mount and the parents of its containers' cgroups.
        run("umount", self.folder / "exec/netns/default")
        for hierarchy in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
            with contextlib.suppress(OSError):
                (hierarchy / "docker").rmdir()
        run("rm", "-rf", "--one-file-system", self.folder)


def image_is_the_binary_alone(docker):
    image = json.loads(docker.done("image", "inspect", "clusterinit"))[0]
    expect("layers", len(image["RootFS"]["Layers"]), 1)
    expect("user", image["Config"]["User"], "65532:65532")
    expect("size", image["Size"], docker.lab.binary.stat().st_size)
    answer = docker("run", "--rm", "clusterinit", "--version")
    expect("exit status of --version", answer.returncode, 0)
    expect_in("--version", "clusterinit", answer.stdout)


def strict_container_runs_what_its_cpus_pay_for(docker):
    with docker.running("--cpus", "1.5", "--memory", "512m", *STRICT, "app") as name:
        wanted = min(2, cpus())
        status = docker.ready(name, wanted)
        expect("cpu.limit", status["cpu"]["limit"], 1.5)
        expect("workers", len(status["workers"]), wanted)
        expect("pid", status["pid"], 1)


def healthcheck_becomes_healthy(docker):
    image = json.loads(docker.done("image", "inspect", "app"))[0]
    expect("HEALTHCHECK", image["Config"]["Healthcheck"]["Test"], ["CMD", "/clusterinit", "healthcheck"])
    with docker.running("--health-interval", "1s", *STRICT, "app") as name:
        until("healthy", lambda: docker.done("inspect", "-f", "{{.State.Health.Status}}", name) == "healthy")


def stop_is_prompt_and_ends_with_0(docker):
    with docker.running("--cpus", "1.5", *STRICT, "app") as name:
        docker.ready(name, min(2, cpus()))
        started = time.monotonic()
        docker.done("stop", name)
        took = time.monotonic() - started
        expect("exit status", docker.done("inspect", "-f", "{{.State.ExitCode}}", name), "0")
        if took > 4:
            raise Failed(f"docker stop took {took:.1f} s")


def logs_show_the_workers_and_us(docker):
    with docker.running("-e", "CLUSTERINIT_WORKERS=2", "job", "/traps") as name:
        until("both workers' output", lambda: docker("logs", name).stdout.count("trapping\n") == 2)
        docker.done("stop", name)
        answer = docker("logs", name)
        expect("workers that got TERM once", answer.stdout.count("got TERM 1\n"), 2)
        expect("workers that got TERM twice", answer.stdout.count("got TERM 2\n"), 0)
        expect_in("our lines", "worker", answer.stderr)


def one_shot_runs_once_and_its_status_counts(docker):
    answer = docker("run", "--rm", "--cpus", "2", "job", "/crashes", "0", "exit", "3")
    expect("exit status", answer.returncode, 3)
    answer = docker("run", "--rm", "--cpus", "2", "job", "/shows")
    expect("exit status", answer.returncode, 0)
    expect("runs", len(answer.stdout.splitlines()), 1)


def restarted_container_comes_back(docker):
    with docker.running(*STRICT, "app") as name:
        until("a ready worker", lambda: docker("exec", name, "/clusterinit", "healthcheck", "--ready").returncode == 0)
        docker.done("restart", name)
        until("a ready worker again", lambda: docker("exec", name, "/clusterinit", "healthcheck", "--ready").returncode == 0)


def shell_on_a_terminal_has_job_control(docker):
    with Terminal(["docker", "run", "--rm", "-it", "job", "/busybox", "sh"], docker.environment) as shell:
        shell.see(PROMPT)
        shell.type("echo $((20+3))\n")
        shell.see(r"\b23\r")
        shell.type("/busybox sleep 1000\n")
        until("sleep runs", lambda: "sleep" in docker.done("top", docker.done("ps", "-lq")))
        shell.type("\x03")
        shell.see(PROMPT)
        shell.type("echo status=$?\n")
        shell.see("status=130")
        shell.type("/busybox sleep 1000\n")
        until("sleep runs", lambda: "sleep" in docker.done("top", docker.done("ps", "-lq")))
        shell.type("\x1a")
        shell.see("Stopped")
        shell.type("jobs; fg\n")
        shell.see("Stopped")
        shell.see("sleep 1000")
        shell.type("\x03")
        shell.see(PROMPT)
        shell.type("exit 7\n")
        expect("exit status", shell.wait(), 7)


class Terminal:
    """A command on a pseudo-terminal: what a person at `docker run -it` has."""

    def __init__(self, command, environment):
        self.child, self.screen = pty.fork()
        if self.child == 0:
            os.execvpe(command[0], command, environment)
        self.text = ""
        self.status = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _trace):
        if error is not None:
            error.add_note(f"    on the screen: {self.text[-800:]!r}")
        if self.status is None:
            os.kill(self.child, signal.SIGKILL)
            os.waitpid(self.child, 0)
        os.close(self.screen)

    def type(self, keys):
        os.write(self.screen, keys.encode())

    def see(self, pattern):
        """Waits until the pattern is on the screen, and forgets the screen up to it."""
        deadline = time.monotonic() + LONGEST_WAIT
        while not (found := re.search(pattern, self.text)):
            if time.monotonic() > deadline or not self.read(0.1):
                raise Failed(f"{pattern!r} does not come on the screen")
        self.text = self.text[found.end():]

    def read(self, seconds):
        """False at the end of the terminal."""
        if not select.select([self.screen], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.screen, 4096)
        except OSError:  # EIO: the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait(self):
        deadline = time.monotonic() + LONGEST_WAIT
        while self.read(0.1):
            if time.monotonic() > deadline:
                raise Failed("the command on the terminal does not end")
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        return self.status


TESTS = [
    image_is_the_binary_alone,
    strict_container_runs_what_its_cpus_pay_for,
    healthcheck_becomes_healthy,
    stop_is_prompt_and_ends_with_0,
    logs_show_the_workers_and_us,
    one_shot_runs_once_and_its_status_counts,
    restarted_container_comes_back,
    shell_on_a_terminal_has_job_control,
]
