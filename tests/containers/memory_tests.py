"""No worker takes the container down: caps, shares, and the kernel's own OOM killer. The same tests under runc, on whatever cgroups the
host has, and under crun in the machine with cgroup v2, where the kernel kills whole containers (memory.oom.group) as Kubernetes has it.

The worker in slot 0 takes memory when it is told to (examples/eats.rs); whoever else lives must be there afterwards.
"""
import contextlib
import json
import re
import time

from lab import Failed, cpus, expect, expect_in, ready_rows, until
from share_tests import InDocker

CALM = ["CLUSTERINIT_READY=running", "CLUSTERINIT_SHARE=off"]
TWO = [*CALM, "CLUSTERINIT_WORKERS=2"]
THREE = [*CALM, "CLUSTERINIT_WORKERS=3"]
PATIENCE = 60.0  # seconds; what takes a moment on a machine takes several in an emulated one
IN_FORCE = 1.0  # seconds from a limit's change until it counts
MIB = 1 << 20


@contextlib.contextmanager
def eating(ground, *words, workers=2, **options):
    """A container whose workers wait for USR1, all ready for longer than a failing start takes."""
    with ground.container("/eats", *words, **options) as c:
        c.until_status(f"{workers} workers ready for a second", lambda status: calm(status, workers), PATIENCE)
        yield c


def calm(status, workers):
    return len(ready_rows(status)) == workers and all(row["uptime_seconds"] > 2.1 for row in ready_rows(status))


def by_slot(status):
    return {row["id"]: row for row in status["workers"]}


def loses(c, reasons=("memory",), signals=("SIGKILL",), slot=0):
    """Tells it to begin: only the worker in this slot is ended, it has a successor, and everybody else is who they were."""
    before = c.status()
    c.kill("USR1")

    def replaced(status):
        row = by_slot(status).get(slot)
        return row and row["last_exit"] and len(ready_rows(status)) == len(before["workers"]) and row["pid"] != by_slot(before)[slot]["pid"]

    after = c.until_status("a successor is ready", replaced, PATIENCE)
    end = by_slot(after)[slot]["last_exit"]
    expect_in("last_exit.reason", end["reason"], reasons)
    expect_in("last_exit.signal", end["signal"], signals)
    expect("restarts", {number: row["restarts"] for number, row in by_slot(after).items()},
           {number: int(number == slot) for number in by_slot(before)})
    for number, row in by_slot(before).items():
        if number != slot:
            expect(f"the worker in slot {number}", by_slot(after)[number]["pid"], row["pid"])
    return after


def taken(c):
    """The most that any process has said it took, in MiB."""
    return max(map(int, re.findall(r"^took (\d+)$", c.output(), re.M)), default=0)


def ends_cleanly(c):
    c.kill("TERM")
    expect("exit status", c.wait(), 0)


def worker_at_its_cap_is_killed_and_nobody_else(ground, **options):
    """The container's limit is what caps and reserve add up to."""
    env = [*THREE, "CLUSTERINIT_WORKER_MEMORY=128Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with eating(ground, "holds=8", "slot=0", workers=3, memory=3 * 128 + 36, env=env, **options) as c:
        memory = c.status()["memory"]
        expect("enforced_by", memory["enforced_by"], "sampling")
        expect("worker_cap_bytes", memory["worker_cap_bytes"], 128 * MIB)
        after = loses(c)
        expect("memory_cap_bytes", {row["memory_cap_bytes"] for row in after["workers"]}, {128 * MIB})
        expect_in("the log", "memory", c.log())
        ends_cleanly(c)


def child_of_a_worker_counts(ground, **options):
    env = [*TWO, "CLUSTERINIT_WORKER_MEMORY=64Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with eating(ground, "holds=8", "slot=0", "by=child", memory=2 * 64 + 32, env=env, **options) as c:
        loses(c)
        ends_cleanly(c)


def worker_at_its_soft_limit_is_replaced_gracefully(ground, **options):
    """It may end by the stop signal: nobody kills it."""
    env = [*TWO, "CLUSTERINIT_WORKER_MEMORY=128Mi", "CLUSTERINIT_MEMORY_SOFT=50%"]
    with eating(ground, "holds=8", "slot=0", "rate=10", memory=512, env=env, **options) as c:
        loses(c, signals=("SIGTERM",))
        if taken(c) > 119:
            raise Failed(f"it took {taken(c)} MiB, and had to go at 64 of 128")
        ends_cleanly(c)


def short_container_loses_the_worker_farthest_above_its_share(ground, **options):
    """WORKER_MEMORY=auto: (192 - 32) / 2 MiB each, and nothing is done before the container is short."""
    with eating(ground, "holds=8", "slot=0", "rate=20", memory=192, env=TWO, **options) as c:
        expect("worker_cap_bytes", c.status()["memory"]["worker_cap_bytes"], 80 * MIB)
        loses(c, signals=("SIGKILL", "SIGTERM"))
        if taken(c) < 100:
            raise Failed(f"it went at {taken(c)} MiB, when the container was not short")
        ends_cleanly(c)


def nobody_goes_while_the_container_has_room(ground, **options):
    """Twice its share, in a container that has room for it."""
    with eating(ground, "holds=8", "slot=0", "takes=150", memory=256, env=TWO, **options) as c:
        before = {row["pid"] for row in c.status()["workers"]}
        c.kill("USR1")
        until("it has taken all", lambda: taken(c) == 150, PATIENCE)
        seen = c.status()["uptime_seconds"]
        after = c.until_status("three more seconds", lambda status: status["uptime_seconds"] > seen + 3, PATIENCE)
        expect("the workers", {row["pid"] for row in after["workers"]}, before)
        ends_cleanly(c)


def kernels_kill_is_said_to_be_for_memory(ground, **options):
    env = [*TWO, "CLUSTERINIT_WORKER_MEMORY=off"]
    with eating(ground, "holds=8", "slot=0", memory=96, env=env, **options) as c:
        expect("enforced_by", c.status()["memory"]["enforced_by"], "off")
        loses(c)
        ends_cleanly(c)


def as_kubernetes_has_it(test):
    """The kernel would kill the whole container."""

    def tested(ground):
        test(ground, oom_group=1)

    tested.__name__ = test.__name__
    return tested


def one_process_at_a_time(test):
    def tested(ground):
        test(ground, oom_group=0)

    tested.__name__ = test.__name__
    return tested


def docker_update_counts_at_once(docker):
    """`docker update --cpus` and `--memory`: the new count and the new caps are in force within a second, seen from outside."""
    if cpus() < 2:
        raise Failed("this test needs two CPUs")
    settings = [word for setting in CALM for word in ("-e", setting)]
    with docker.running("--cpus", "1", "--memory", "512m", "--memory-swap", "-1", *settings, "job", "/eats") as name:
        box = InDocker(docker, name)
        box.ready(1)
        # Slot 0 may have two rows meanwhile: with two workers its share is another one.
        changes(docker, box, ["--cpus", "2"],
                lambda status: status["cpu"]["workers_wanted"] == 2 and {row["id"] for row in status["workers"]} == {0, 1})
        box.ready(2)
        share = (1024 - 32) // 2 * MIB
        changes(docker, box, ["--memory", "1g", "--memory-swap", "-1"],
                lambda status: (status["memory"]["limit_bytes"], status["memory"]["worker_cap_bytes"]) == (1024 * MIB, share))

        def renewed():
            rows = ready_rows(box.status() or {"workers": []})
            return len(rows) == 2 and {row["memory_cap_bytes"] for row in rows} == {share} and rows

        rows = until("both workers have the new cap", renewed, PATIENCE)
        expect("replaced for", {row["last_exit"]["reason"] for row in rows}, {"reload"})


def changes(docker, box, words, condition):
    docker.done("update", *words, box.name)
    began = time.monotonic()
    until(f"docker update {' '.join(words)} counts", lambda: condition(json.loads(box.get("/workers", 9180))))
    took = time.monotonic() - began
    if took > IN_FORCE:
        raise Failed(f"docker update {' '.join(words)} counted after {took:.2f} s")


KILLS = [
    worker_at_its_cap_is_killed_and_nobody_else,
    child_of_a_worker_counts,
    worker_at_its_soft_limit_is_replaced_gracefully,
    short_container_loses_the_worker_farthest_above_its_share,
    nobody_goes_while_the_container_has_room,
]
IN_RUNC = [*KILLS, kernels_kill_is_said_to_be_for_memory]
IN_VM = [*map(as_kubernetes_has_it, KILLS), one_process_at_a_time(kernels_kill_is_said_to_be_for_memory)]
IN_DOCKER = [docker_update_counts_at_once]
