"""What only cgroup v2 has: cpu.max, limits that crun changes while we run, and cgroups that a container may write to.

One boot for each of `GROUPS`. Four CPUs, so that quotas matter.
"""
from lab import Failed, expect, expect_in, ready_rows, until
from memory_tests import CALM, IN_VM, MIB, PATIENCE, THREE, TWO, eating, ends_cleanly, loses, taken
from vm import CPUS

MORE_THAN_THE_CAP = 4 * MIB  # what a tree may be charged above its cap, kernel memory included


def quota_of_one_and_a_half_pays_for_two_workers(vm):
    with vm.container("/eats", quota=150_000, env=CALM) as c:
        status = c.ready(2, PATIENCE)
        expect("cpu", status["cpu"], {"limit": 1.5, "source": "/sys/fs/cgroup/cpu.max", "workers_wanted": 2})
        ends_cleanly(c)


def raised_quota_adds_workers_as_far_as_memory_allows(vm):
    """(512 - 36) / 128 MiB is three. What was there gets its new share by a replacement, so rows come and go."""
    with vm.container("/eats", quota=150_000, memory=512, env=CALM) as c:
        c.ready(2, PATIENCE)
        c.update("--cpu-quota", 350_000)
        status = c.until_status("three workers", lambda status: settled(status, 3), PATIENCE)
        expect("cpu", (status["cpu"]["limit"], status["cpu"]["workers_wanted"]), (3.5, 3))
        c.update("--memory", 1024 * MIB)
        status = c.until_status("a worker for each CPU", lambda status: settled(status, CPUS), PATIENCE)
        expect("workers_wanted", status["cpu"]["workers_wanted"], CPUS)
        expect("memory.limit_bytes", status["memory"]["limit_bytes"], 1024 * MIB)
        expect("generation", status["generation"], 1)
        ends_cleanly(c)


def settled(status, count):
    return len(status["workers"]) == len(ready_rows(status)) == count


def new_memory_limit_is_a_new_share_for_everybody(vm):
    """Those that run are replaced gracefully: a new cap never kills."""
    with vm.container("/eats", memory=256, env=TWO) as c:
        status = c.ready(2, PATIENCE)
        expect("worker_cap_bytes", status["memory"]["worker_cap_bytes"], (256 - 32) // 2 * MIB)
        expect("memory.source", status["memory"]["source"], "/sys/fs/cgroup/memory.max")
        share = (512 - 32) // 2 * MIB
        c.update("--memory", 512 * MIB)

        def renewed(status):
            rows = ready_rows(status)
            return len(rows) == 2 and {row["memory_cap_bytes"] for row in rows} == {share}

        status = c.until_status("both workers have the new cap", renewed, PATIENCE)
        expect("worker_cap_bytes", status["memory"]["worker_cap_bytes"], share)
        expect("limit_bytes", status["memory"]["limit_bytes"], 512 * MIB)
        expect("replaced for", {(row["last_exit"]["reason"], row["restarts"]) for row in status["workers"]}, {("reload", 0)})
        ends_cleanly(c)


def lowered_quota_counts_when_it_has_held_for_a_minute(vm):
    with vm.container("/eats", quota=300_000, env=CALM) as c:
        c.ready(3, PATIENCE)
        c.update("--cpu-quota", 100_000)
        asked = c.until_status("the limit is seen", lambda status: status["cpu"]["limit"] == 1.0, PATIENCE)["uptime_seconds"]
        status = c.until_status("two workers have gone", lambda status: len(status["workers"]) == 1, 90.0)
        held = status["uptime_seconds"] - asked
        # Seen a look later than it happened.
        if held < 55:
            raise Failed(f"less counted after {held:.1f} s")
        expect("workers_wanted", status["cpu"]["workers_wanted"], 1)
        ends_cleanly(c)


def quota_of_an_ancestor_counts_and_is_followed(vm):
    """The last of its boot: a container in the host's cgroup namespace takes nsdelegate from the whole machine."""
    vm.done("mkdir /sys/fs/cgroup/pod && cd /sys/fs/cgroup/pod && echo '+cpu +memory +pids' >cgroup.subtree_control && "
            "echo '100000 100000' >cpu.max")
    with vm.container("/eats", cgroup="/pod/c", host_cgroupns=True, env=CALM) as c:
        status = c.ready(1, PATIENCE)
        expect("cpu", status["cpu"], {"limit": 1.0, "source": "/sys/fs/cgroup/pod/cpu.max", "workers_wanted": 1})
        vm.done("echo '300000 100000' >/sys/fs/cgroup/pod/cpu.max")
        expect("cpu.limit", c.ready(3, PATIENCE)["cpu"]["limit"], 3.0)
        ends_cleanly(c)


def writable(vm, *words, env, workers=2, **options):
    """Root without capabilities owns the container's cgroup, which is mounted writable."""
    return eating(vm, *words, workers=workers, env=env, uid=0, rw_cgroup=True, oom_group=1, **options)


def kernel_holds_each_worker_to_its_cap(vm):
    env = [*THREE, "CLUSTERINIT_WORKER_MEMORY=96Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with writable(vm, "slot=0", workers=3, memory=3 * 96 + 36, env=env) as c:
        expect("enforced_by", c.status()["memory"]["enforced_by"], "cgroup")
        groups = len(c.groups())
        before = int(c.file("memory.current"))
        loses(c)
        if taken(c) >= 96:
            raise Failed(f"it took {taken(c)} MiB of 96")
        peak = int(c.file("memory.peak")) - before
        if peak > 96 * MIB + MORE_THAN_THE_CAP:
            raise Failed(f"the container used {peak / MIB:.1f} MiB more than before")
        until("its cgroup has gone", lambda: len(c.groups()) == groups, PATIENCE)
        expect("processes", c.named("eats"), 3)
        ends_cleanly(c)
        expect("cgroups left", vm.sh(f"ls -d /sys/fs/cgroup{c.cgroup}")[0] != 0, True)


def nothing_of_a_worker_runs_outside_its_group(vm):
    """Neither PID 1 nor a worker is left in the container's own group: only there may limits be set."""
    with writable(vm, "holds=4", memory=512, quota=150_000, env=[*TWO, "CLUSTERINIT_WORKER_MEMORY=64Mi"]) as c:
        expect("processes in the container's group", c.file("cgroup.procs").split(), [])
        caps = [c.file(f"{group}/memory.max").strip() for group in c.groups()]
        expect("groups with a cap", caps.count(str(64 * MIB)), 2)
        # Java 17, Go and .NET look for their quota in their own group only.
        expect("quotas that workers see", quotas_of_workers(c), ["150000 100000"] * 2)
        c.update("--cpu-quota", 250_000)
        until("workers see the new quota", lambda: quotas_of_workers(c) == ["250000 100000"] * 2, PATIENCE)
        expect("what enters", vm.sh(f"crun exec {c.name} /clusterinit healthcheck")[0], 0)
        c.kill("USR2")
        status = c.until_status("the reload is done", lambda status: status["reload"]["state"] == "done" and settled(status, 2), PATIENCE)
        expect("generation", status["generation"], 2)
        caps = [c.file(f"{group}/memory.max").strip() for group in c.groups()]
        expect("groups with a cap after a reload", caps.count(str(64 * MIB)), 2)
        ends_cleanly(c)


def quotas_of_workers(c):
    return [c.file(f"{group}/cpu.max").strip() for group in c.groups() if c.file(f"{group}/memory.max").strip() == str(64 * MIB)]


def tree_at_its_cap_is_killed_whole(vm):
    with writable(vm, "slot=0", "by=tree", memory=256, env=[*TWO, "CLUSTERINIT_WORKER_MEMORY=64Mi", "CLUSTERINIT_MEMORY_SOFT=off"]) as c:
        loses(c)
        until("only the successor and the other are left", lambda: c.named("eats") == 2, PATIENCE)
        ends_cleanly(c)


def soft_limit_where_the_kernel_holds_the_caps(vm):
    env = [*TWO, "CLUSTERINIT_WORKER_MEMORY=128Mi", "CLUSTERINIT_MEMORY_SOFT=50%"]
    with writable(vm, "slot=0", "rate=10", memory=512, env=env) as c:
        loses(c, signals=("SIGTERM",))
        ends_cleanly(c)


def share_where_cgroups_are_writable(vm):
    """`auto` is no hard cap there either."""
    with writable(vm, "holds=8", "slot=0", "rate=20", memory=192, env=TWO) as c:
        loses(c, signals=("SIGKILL", "SIGTERM"))
        if taken(c) < 100:
            raise Failed(f"it went at {taken(c)} MiB, when the container was not short")
        ends_cleanly(c)


def writable_cgroup_of_another_user_is_left_alone(vm):
    """uid 65532 may not write to it: sampling, and no line of alarm."""
    env = [*TWO, "CLUSTERINIT_WORKER_MEMORY=64Mi", "CLUSTERINIT_MEMORY_SOFT=off"]
    with eating(vm, "slot=0", memory=160, rw_cgroup=True, oom_group=1, env=env) as c:
        expect("enforced_by", c.status()["memory"]["enforced_by"], "sampling")
        loses(c)
        expect_in("the log", "memory", c.log())
        ends_cleanly(c)


GROUPS = {
    "limits": [
        quota_of_one_and_a_half_pays_for_two_workers,
        raised_quota_adds_workers_as_far_as_memory_allows,
        new_memory_limit_is_a_new_share_for_everybody,
        lowered_quota_counts_when_it_has_held_for_a_minute,
        quota_of_an_ancestor_counts_and_is_followed,
    ],
    "memory": [
        *IN_VM,
        kernel_holds_each_worker_to_its_cap,
        nothing_of_a_worker_runs_outside_its_group,
        tree_at_its_cap_is_killed_whole,
        soft_limit_where_the_kernel_holds_the_caps,
        share_where_cgroups_are_writable,
        writable_cgroup_of_another_user_is_left_alone,
    ],
}
