"""The ground that container tests stand on: processes with deadlines, one root file system, and runc bundles.

A test gets a `Lab`. What a test starts it starts in a `with` block, and the block's end removes it: container, cgroups, folder.
Waiting is always for a condition and always with a deadline (`until`).
"""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LONGEST_WAIT = 20.0  # seconds; a condition that takes longer than this on any machine has failed


class Failed(Exception):
    """What a test expected did not happen."""


class Skipped(Exception):
    """This machine cannot run the test."""


def until(what, condition, seconds=LONGEST_WAIT):
    """Waits until `condition()` is true, and returns what it returned."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise Failed(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.01)


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what}: expected {wanted!r}, found {found!r}")


def expect_in(what, part, whole):
    if part not in whole:
        raise Failed(f"{what}: no {part!r} in {whole!r}")


def run(*command, timeout=60, **options):
    """The finished process; never raises for its exit status."""
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout, check=False, **options)


def cpus():
    return len(os.sched_getaffinity(0))


class Lab:
    """A temporary folder with a root file system that holds the binary and the examples, and nothing else."""

    def __init__(self, binary, examples):
        self.binary, self.examples = Path(binary).resolve(), Path(examples).resolve()
        self.folder = Path(tempfile.mkdtemp(prefix="ci-"))
        self.root = self.folder / "rootfs"
        for folder in ("proc", "dev", "sys"):
            (self.root / folder).mkdir(parents=True)
        shutil.copy(self.binary, self.root / "clusterinit")
        self.go_server = self.build_go_server()
        for program in self.programs():
            shutil.copy(program, self.root)
        (self.root / "plain.txt").write_text("not a program\n")
        self.cgroup = f"/clusterinit-test-{os.getpid()}"
        self.count = 0

    def programs(self):
        """The examples, without cargo's hashed copies and notes, and the Go server where it could be built."""
        examples = [path for path in self.examples.iterdir() if path.is_file() and os.access(path, os.X_OK) and "-" not in path.name]
        return [*examples, *([self.go_server] if self.go_server else [])]

    def build_go_server(self):
        """Static, in a cache of its own; None where there is no go."""
        if not shutil.which("go"):
            return None
        program = self.folder / "goserver"
        own = {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local",
               "GOCACHE": str(self.folder / "gocache"), "GOPATH": str(self.folder / "gopath")}
        source = REPOSITORY / "tests/e2e/share/servers/server.go"
        answer = run("go", "build", "-o", program, source, timeout=300, env={**os.environ, **own})
        if answer.returncode != 0:
            raise Failed(f"go build: {answer.stderr}")
        shutil.rmtree(self.folder / "gocache", ignore_errors=True)
        return program

    def close(self):
        remove_cgroups(self.cgroup)
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def container(self, *command, **options):
        """A runc container whose PID 1 is `/clusterinit COMMAND` (or COMMAND alone where it begins with `/clusterinit`)."""
        if not shutil.which("runc"):
            raise Skipped("runc is not installed")
        self.count += 1
        container = Container(self, f"c{self.count}", command, options)
        try:
            yield container
        except Exception as error:
            error.add_note(container.tail())
            raise
        finally:
            container.remove()


class Box:
    """What a test asks of a container, whoever runs it. `status`, `output`, `log` and `check_alive` are the runtime's."""

    def tail(self):
        return f"    its stdout: {self.output()[-500:]!r}\n    its stderr: {self.log()[-1500:]!r}"

    def until_status(self, what, condition, seconds=LONGEST_WAIT):
        """Waits until the condition holds of a status, and returns that status."""

        def seen():
            self.check_alive()
            status = self.status()
            return status and condition(status) and status

        return until(what, seen, seconds)

    def ready(self, count, seconds=LONGEST_WAIT):
        """Waits until `count` workers are ready, and returns the status that says so."""
        return self.until_status(f"{count} ready workers", lambda status: len(ready_rows(status)) == count, seconds)


class Container(Box):
    """One run of one bundle. Its stdout and stderr are files, so that nothing here can block it."""

    def __init__(self, lab, name, command, options):
        self.lab, self.name = lab, name
        self.folder = lab.folder / name
        self.cgroup = f"{lab.cgroup}/{name}"
        self.folder.mkdir()
        args = [str(word) for word in command]
        if args[0] != "/clusterinit":
            args = ["/clusterinit", "--", *args]
        config = bundle(args, str(lab.root), self.cgroup, **options)
        (self.folder / "config.json").write_text(json.dumps(config, indent=1))
        self.stdout, self.stderr = self.folder / "stdout", self.folder / "stderr"
        with self.stdout.open("w") as out, self.stderr.open("w") as err:
            self.process = subprocess.Popen(self.runc("run", "--bundle", self.folder, name), stdin=subprocess.DEVNULL, stdout=out, stderr=err)

    def runc(self, *words):
        return ["runc", "--root", str(self.lab.folder / "runc"), *map(str, words)]

    def output(self):
        return self.stdout.read_text(errors="replace")

    def log(self):
        return self.stderr.read_text(errors="replace")

    def pid(self):
        """PID 1's number on the host, as soon as there is one."""

        def state():
            answer = run(*self.runc("state", self.name))
            return answer.returncode == 0 and json.loads(answer.stdout).get("pid")

        return until("the container runs", state)

    def workers(self):
        """The host's numbers of PID 1's children."""
        pid = self.pid()
        found = []
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def exec(self, *words, **options):
        return subprocess.Popen(self.runc("exec", self.name, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)

    def status(self):
        """What `clusterinit status --json` says inside, or None while it cannot be had."""
        answer = run(*self.runc("exec", self.name, "/clusterinit", "status", "--json"))
        try:
            return json.loads(answer.stdout) if answer.returncode == 0 else None
        except json.JSONDecodeError as error:
            raise Failed(f"status --json is no JSON: {answer.stdout!r}") from error

    def get(self, path, port=9180):
        """The answer of a server inside, asked from inside its network namespace without becoming one of its processes."""
        answer = run("nsenter", "-t", self.pid(), "-n", "curl", "-sf", "--max-time", "5", f"http://127.0.0.1:{port}{path}")
        return answer.stdout if answer.returncode == 0 else None

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"the container ended with {self.process.returncode}")

    def kill(self, signal="TERM"):
        expect("runc kill", run(*self.runc("kill", self.name, signal)).returncode, 0)

    def limit_pids(self, count):
        self.update("--pids-limit", count)

    def update(self, *words):
        expect("runc update", run(*self.runc("update", *words, self.name)).returncode, 0)

    def wait(self, seconds=LONGEST_WAIT):
        """Its exit status, which has to come within `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"the container did not end within {seconds} s") from error

    def remove(self):
        run(*self.runc("delete", "-f", self.name))
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        remove_cgroups(self.cgroup)


class Load:
    """The load client (examples/load.rs) in the network namespace of a process, from outside of its container."""

    def __init__(self, lab, pid, *words, port=8080):
        command = ["nsenter", "-t", str(pid), "-n", "--", str(lab.examples / "load"), f"127.0.0.1:{port}", *words]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        expect("its first line", self.process.stdout.readline(), "loading\n")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def finish(self):
        """What it counted."""
        said, _ = self.process.communicate(timeout=60)
        return json.loads(said)


def ready_rows(status):
    return [row for row in status["workers"] if row["state"] == "ready"]


def remove_cgroups(path):
    """Container runtimes leave the parents of the cgroups that they made."""
    for hierarchy in [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()]:
        with contextlib.suppress(OSError):
            (hierarchy / path.lstrip("/")).rmdir()


def bundle(args, root, cgroup, *, quota=0, memory=0, pids=0, uid=65532, caps=(), env=(), host_cgroupns=False, seccomp=None,
           no_new_privileges=True, oom_group=None, rw_cgroup=False):
    """An OCI configuration as strict as Kubernetes' restricted profile; quota in microseconds of each 100 ms, memory in MiB."""
    resources = {"devices": [{"allow": False, "access": "rwm"}]}
    if quota:
        resources["cpu"] = {"quota": quota, "period": 100_000}
    if memory:
        resources["memory"] = {"limit": memory << 20}
    if pids:
        resources["pids"] = {"limit": pids}
    if oom_group is not None:
        resources["unified"] = {"memory.oom.group": str(oom_group)}
    namespaces = ["pid", "mount", "ipc", "uts", "network"] + ([] if host_cgroupns else ["cgroup"])
    hard = ["nosuid", "noexec", "nodev"]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": uid, "gid": uid},
            "args": args,
            "env": ["PATH=/", *env],
            "cwd": "/",
            "noNewPrivileges": no_new_privileges,
            "capabilities": {kind: list(caps) for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": root, "readonly": True},
        "hostname": "c",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*hard, "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*hard, "relatime", "rw" if rw_cgroup else "ro"]},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "resources": resources,
            "namespaces": [{"type": kind} for kind in namespaces],
            **({"seccomp": seccomp} if seccomp else {}),
        },
    }
