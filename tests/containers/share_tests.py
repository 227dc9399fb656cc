"""Two copies of a server that knows nothing of it share one port: in runc with what profiles refuse, and in real Docker.

Each test also reloads under load, where nothing may fail, and stops the idle container.
"""
import json
import time
from datetime import datetime
from pathlib import Path

from docker_tests import STRICT
from lab import Failed, Load, Skipped, expect, expect_in, ready_rows, run, until

TWO = "CLUSTERINIT_WORKERS=2"
PORT = "PORT=8080"
PROMPT = 1.0  # seconds for the stop of an idle container
# What Docker gives to root by default.
DOCKERS_CAPS = [f"CAP_{name}" for name in (
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP", "NET_BIND_SERVICE",
    "SYS_CHROOT", "KILL", "AUDIT_WRITE")]
# Refused by the strictest of the usual profiles, of all calls that could be of use for sharing.
REFUSED = ["pidfd_getfd", "process_vm_readv", "process_vm_writev", "ptrace", "kcmp", "unshare", "setns", "mount", "bpf",
           "perf_event_open", "io_uring_setup", "io_uring_enter", "io_uring_register", "open_by_handle_at", "userfaultfd"]
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [
        {"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    ],
}


class InDocker:
    """A container of a Docker daemon with the questions that a runc container answers."""

    def __init__(self, docker, name):
        self.docker, self.name = docker, name

    def inspect(self, what):
        return self.docker.done("inspect", "-f", "{{" + what + "}}", self.name)

    def pid(self):
        return int(self.inspect(".State.Pid"))

    def status(self):
        return self.docker.status(self.name)

    def ready(self, count):
        return self.docker.ready(self.name, count)

    def get(self, path, port):
        answer = run("nsenter", "-t", self.pid(), "-n", "curl", "-sf", "--max-time", "5", f"http://127.0.0.1:{port}{path}")
        return answer.stdout if answer.returncode == 0 else None

    def kill(self, signal):
        self.docker.done("kill", "--signal", signal, self.name)

    def stop(self):
        """The exit status, and how long it took until the container had ended."""
        asked = time.time()
        self.kill("TERM")
        until("its end", lambda: self.inspect(".State.Running") == "false")
        # Nine digits behind the point are three too many for Python.
        ended = datetime.fromisoformat(self.inspect(".State.FinishedAt")[:26].rstrip("Z") + "+00:00").timestamp()
        return int(self.inspect(".State.ExitCode")), ended - asked


def check(lab, box, stop):
    """Two workers share port 8080, a reload under load fails nothing, and the stop is prompt."""
    share = box.ready(2)["share"]
    expect("share.mechanism", (share["mechanism"], share["reason"]), ("seccomp", None))
    expect_in("share.listeners", ":8080", json.dumps(share["listeners"]))
    answered = set()

    def all_answered():
        body = box.get("/", port=8080)
        if body:
            answered.add(json.loads(body)["worker"])
        return answered == {0, 1}

    until("both workers answer", all_answered)
    for mode in ("close", "keep"):
        with Load(lab, box.pid(), "clients=8", "think=1ms", f"mode={mode}") as load:
            generation = box.status()["generation"]
            box.kill("USR2")

            def reloaded(before=generation):
                status = box.status()
                return status and status["generation"] == before + 1 and status["reload"]["state"] == "done" and len(ready_rows(status)) == 2

            until("the reload is done", reloaded)
            seen = load.finish()
        expect(f"failed requests, {mode}, {seen['samples']}", seen["failed"], 0)
        # Connections that are kept may all have found the same successor.
        if mode == "close" and len(seen["answers"]) < 3:
            raise Failed(f"answers of {len(seen['answers'])} processes: {seen['answers']}")
    code, took = stop()
    expect("exit status", code, 0)
    if took > PROMPT:
        raise Failed(f"the stop of the idle container took {took:.2f} s")


def servers(lab):
    """Commands that listen on 8080."""
    if not lab.go_server:
        raise Skipped("go is not installed")
    return [["/server"], ["/goserver", ":8080"]]


def check_runc(lab, command, env=(), **options):
    with lab.container(*command, env=[TWO, PORT, "CLUSTERINIT_SHARE=on", *env], **options) as c:
        def stop():
            started = time.monotonic()
            c.kill("TERM")
            return c.wait(), time.monotonic() - started

        check(lab, c, stop)


def without_any_right(lab):
    for command in servers(lab):
        check_runc(lab, command, seccomp=PROFILE)


def as_root_without_capabilities(lab):
    for command in servers(lab):
        check_runc(lab, command, seccomp=PROFILE, uid=0)


def as_root_as_docker_has_it(lab):
    for command in servers(lab):
        check_runc(lab, command, seccomp=PROFILE, uid=0, caps=DOCKERS_CAPS, no_new_privileges=False)


def worker_that_drops_its_uid_in_runc(lab):
    as_docker = {"seccomp": PROFILE, "uid": 0, "caps": DOCKERS_CAPS}
    check_runc(lab, ["/sockets", "bind=0.0.0.0:8080", "uid=1000", "listen", "serve"], **as_docker)
    check_runc(lab, ["/server"], env=["CLUSTERINIT_USER=1000:1000"], **as_docker)


def where_seccomp_is_refused_one_worker_runs(lab):
    """As under a profile that does not know the call."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["seccomp"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}
    with lab.container("/server", env=[PORT], seccomp=profile, quota=200_000) as c:
        status = c.ready(1)
        expect("workers", len(status["workers"]), 1)
        expect("share.mechanism", status["share"]["mechanism"], "none")
        expect_in("share.reason", "seccomp", (status["share"]["reason"] or "").lower())
    with lab.container("/server", env=[PORT, "CLUSTERINIT_SHARE=on"], seccomp=profile) as c:
        expect("exit status with SHARE=on", c.wait(), 64)


def check_docker(docker, options, command):
    with docker.running("-e", TWO, "-e", PORT, "-e", "CLUSTERINIT_SHARE=on", *options, "job", *command) as name:
        box = InDocker(docker, name)
        check(docker.lab, box, box.stop)


def plain_docker_run(docker):
    for command in servers(docker.lab):
        check_docker(docker, ["--user", "0"], command)
        check_docker(docker, [], command)


def strict_docker_run(docker):
    for command in servers(docker.lab):
        check_docker(docker, STRICT, command)


def unconfined_docker_run(docker):
    for command in servers(docker.lab):
        check_docker(docker, ["--security-opt", "seccomp=unconfined"], command)


def worker_that_drops_its_uid(docker):
    check_docker(docker, ["--user", "0"], ["/sockets", "bind=0.0.0.0:8080", "uid=1000", "listen", "serve"])
    check_docker(docker, ["--user", "0", "-e", "CLUSTERINIT_USER=1000:1000"], ["/server"])


def dockers_own_profile_in_runc(docker):
    """The very profile that this Docker makes, for root and for nobody."""
    lab = docker.lab
    with docker.running("--user", "0", "job", "/traps") as name:
        container = docker.done("inspect", "-f", "{{.Id}}", name)
        found = list(Path(docker.folder, "exec").glob(f"**/{container}/config.json"))
        expect("bundles of the container", len(found), 1)
        profile = json.loads(found[0].read_text())["linux"]["seccomp"]
    expect("its default", profile["defaultAction"], "SCMP_ACT_ERRNO")
    for command in servers(lab):
        check_runc(lab, command, seccomp=profile)
        check_runc(lab, command, seccomp=profile, uid=0, caps=DOCKERS_CAPS, no_new_privileges=False)


IN_RUNC = [
    without_any_right,
    as_root_without_capabilities,
    as_root_as_docker_has_it,
    worker_that_drops_its_uid_in_runc,
    where_seccomp_is_refused_one_worker_runs,
]
IN_DOCKER = [
    plain_docker_run,
    strict_docker_run,
    unconfined_docker_run,
    worker_that_drops_its_uid,
    dockers_own_profile_in_runc,
]
