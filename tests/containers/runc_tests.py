"""clusterinit as PID 1 of runc containers: quota and limits, the stop, replacement, orphans, exit statuses.

Every container here is read-only, runs as uid 65532 and has no capability, whatever else a test sets.
"""
import json
import os
import re
import signal
import time

from lab import Failed, cpus, expect, expect_in, ready_rows, until

LISTEN = "CLUSTERINIT_LISTEN=8080"
TWO = "CLUSTERINIT_WORKERS=2"
PROMPT = 3.0  # seconds within which a stop of willing workers must be over, on a loaded machine too


def quota_of_one_and_a_half_pays_for_two_workers(lab):
    for host_cgroupns in (False, True):
        with lab.container("/server", quota=150_000, env=[LISTEN], host_cgroupns=host_cgroupns) as c:
            wanted = min(2, cpus())
            status = c.ready(wanted)
            expect("cpu.limit", status["cpu"]["limit"], 1.5)
            expect("cpu.workers_wanted", status["cpu"]["workers_wanted"], wanted)
            expect_in("cpu.source", "cpu.", status["cpu"]["source"])
            expect("share.mechanism", status["share"]["mechanism"], "listen-fds")
            answers = set()

            def all_answered(c=c, answers=answers, wanted=wanted):
                answers.add(json.loads(c.get("/", port=8080))["worker"])
                return len(answers) == wanted

            until("every worker answers", all_answered)


def quota_of_a_half_pays_for_one_worker(lab):
    with lab.container("/server", quota=50_000, env=[LISTEN]) as c:
        expect("workers", len(c.ready(1)["workers"]), 1)


def memory_limit_lowers_the_count(lab):
    if cpus() < 2:
        raise Failed("this test needs two CPUs")
    for least, workers in (("96Mi", 1), ("48Mi", 2)):
        with lab.container("/server", quota=200_000, memory=128, env=[LISTEN, f"CLUSTERINIT_WORKER_MEMORY_MIN={least}"]) as c:
            status = c.ready(workers)
            expect(f"workers for {least} each", len(status["workers"]), workers)
            expect("memory.limit_bytes", status["memory"]["limit_bytes"], 128 << 20)
            expect_in("memory.source", "memory.", status["memory"]["source"])


def plan_names_the_number_the_file_and_the_rule(lab):
    with lab.container("/clusterinit", "plan", "--", "/server", quota=150_000, env=[LISTEN]) as c:
        expect("exit status", c.wait(), 0)
        number = re.search(r"count +(\d+)", c.output())
        expect("the number", number and int(number[1]), min(2, cpus()))
        for part in ("1.5", "from /sys/fs/cgroup/", "ceil"):
            expect_in("plan", part, c.output())


def stop_is_prompt_and_ends_with_0(lab):
    with lab.container("/server", quota=150_000, env=[LISTEN]) as c:
        c.ready(min(2, cpus()))
        started = time.monotonic()
        c.kill("TERM")
        expect("exit status", c.wait(), 0)
        took = time.monotonic() - started
        if took > PROMPT:
            raise Failed(f"the stop took {took:.1f} s")


def worker_that_ignores_term_is_killed_after_the_grace(lab):
    with lab.container("/ignores_term", env=["CLUSTERINIT_WORKERS=1", "CLUSTERINIT_GRACE=1s"]) as c:
        until("the worker ignores TERM", lambda: "ignoring TERM" in c.output())
        started = time.monotonic()
        c.kill("TERM")
        expect("exit status", c.wait(), 137)
        took = time.monotonic() - started
        if not 0.9 < took < 1 + PROMPT:
            raise Failed(f"the stop took {took:.1f} s with a grace of 1 s")


def stopped_worker_still_gets_its_term(lab):
    with lab.container("/stops_itself", env=["CLUSTERINIT_WORKERS=1"]) as c:
        until("the worker has stopped", lambda: any(state_of(pid) == "T" for pid in c.workers()))
        c.kill("TERM")
        expect("exit status", c.wait(PROMPT), 0)


def daemon_in_a_session_of_its_own_is_ended_too(lab):
    with lab.container("/daemonizes", "clear", env=["CLUSTERINIT_WORKERS=1"]) as c:
        until("the daemon runs", lambda: "daemon " in c.output())
        c.kill("TERM")
        expect("exit status", c.wait(PROMPT), 0)


def killed_worker_is_replaced(lab):
    with lab.container("/server", quota=150_000, env=[LISTEN, TWO]) as c:
        before = {row["id"]: row["pid"] for row in c.ready(2)["workers"]}
        until("workers ready for a second", lambda: all(row["uptime_seconds"] > 2.1 for row in c.status()["workers"]))
        os.kill(c.workers()[0], signal.SIGKILL)

        def replaced():
            rows = ready_rows(c.status())
            return len(rows) == 2 and [row for row in rows if row["pid"] != before[row["id"]]]

        (row,) = until("a successor is ready", replaced)
        expect("restarts", row["restarts"], 1)
        expect("last_exit.signal", row["last_exit"]["signal"], "SIGKILL")
        expect("last_exit.reason", row["last_exit"]["reason"], "crash")
        expect("the other slot's restarts", [r["restarts"] for r in c.status()["workers"] if r["id"] != row["id"]], [0])


def thousand_orphans_are_reaped(lab):
    with lab.container("/makes_orphans", "1000", env=["CLUSTERINIT_WORKERS=1"]) as c:
        until("all are made", lambda: "made 1000 orphans" in c.output())
        until("all are reaped", lambda: (c.status() or {}).get("orphans_reaped", 0) >= 1000)
        expect("children of PID 1", len(c.workers()), 1)


def full_pids_limit_leaves_the_living_alone(lab):
    with lab.container("/server", pids=60, env=[LISTEN, TWO, "CLUSTERINIT_RESTART_BACKOFF=50ms..200ms"]) as c:
        c.ready(2)
        until("workers ready for a second", lambda: all(row["uptime_seconds"] > 2.1 for row in c.status()["workers"]))
        victim, survivor = c.workers()
        # A limit below what lives refuses every fork; runc itself could not enter now, so it is asked from outside.
        c.limit_pids(1)
        os.kill(victim, signal.SIGKILL)

        def short_of_one():
            rows = json.loads(c.get("/workers"))["workers"]
            return sorted(row["state"] for row in rows) == ["backoff", "ready"]

        until("one worker is missed, the other is ready", short_of_one)
        expect("/healthz", (c.get("/healthz") or "").strip(), "ok")
        expect("the survivor lives", survivor in c.workers(), True)
        c.limit_pids(60)
        c.ready(2)
        expect("the survivor was never touched", survivor in c.workers(), True)


def worker_is_as_restricted_as_its_container(lab):
    with lab.container("/shows", "stay", env=["CLUSTERINIT_WORKERS=1", "GREETING=hello"]) as c:
        shown = json.loads(until("the witness speaks", lambda: c.output().endswith("\n") and c.output()))
        expect("uid, gid", (shown["uid"], shown["gid"]), (65532, 65532))
        expect("CapEff", int(shown["CapEff"], 16), 0)
        expect("NoNewPrivs", shown["NoNewPrivs"], "1")
        expect("signals", [int(shown[mask], 16) for mask in ("SigBlk", "SigIgn", "SigCgt")], [0, 0, 0])
        expect("descriptors", sorted(shown["fds"]), ["0", "1", "2"])
        expect("parent", shown["ppid"], 1)
        expect("GREETING", shown["environment"].get("GREETING"), "hello")
        expect("CLUSTERINIT_WORKER_ID", shown["environment"].get("CLUSTERINIT_WORKER_ID"), "0")


def process_that_entered_hears_of_the_stop(lab):
    with lab.container("/server", env=[LISTEN, "CLUSTERINIT_WORKERS=1"]) as c:
        c.ready(1)
        entered = c.exec("/traps", "exit=9")
        until("it traps", lambda: "trapping" in entered.stdout.readline())
        c.kill("TERM")
        said, _ = entered.communicate(timeout=20)
        expect_in("what it got", "got TERM 1", said)
        expect("the container's exit status", c.wait(PROMPT), 0)


def process_that_entered_and_stays_costs_a_second_at_most(lab):
    with lab.container("/server", env=[LISTEN, "CLUSTERINIT_WORKERS=1"]) as c:
        c.ready(1)
        entered = c.exec("/ignores_term", "HUP")
        until("it ignores", lambda: "ignoring" in entered.stdout.readline())
        started = time.monotonic()
        c.kill("TERM")
        expect("exit status", c.wait(), 0)
        took = time.monotonic() - started
        entered.communicate(timeout=20)
        if took > 1 + PROMPT:
            raise Failed(f"the stop took {took:.1f} s")


def exit_status_says_what_went_wrong(lab):
    cases = [
        (("/nowhere",), [], 127),
        (("/plain.txt",), [], 126),
        (("/proc",), [], 126),
        (("/server",), ["CLUSTERINIT_GRACE=8"], 64),
        (("/server",), ["CLUSTERINIT_WORKRES=2"], 64),
        (("/crashes", "0", "exit", "7"), [], 7),
        (("/crashes", "0", "signal", "SEGV"), [], 139),
        (("/crashes", "0", "exit", "0"), [], 0),
    ]
    for command, env, status in cases:
        with lab.container(*command, quota=200_000, env=env) as c:
            expect(" ".join([*env, *command]), c.wait(), status)


def one_shot_runs_once(lab):
    with lab.container("/shows", quota=200_000) as c:
        expect("exit status", c.wait(), 0)
        expect("runs", len(c.output().splitlines()), 1)


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return None


TESTS = [
    quota_of_one_and_a_half_pays_for_two_workers,
    quota_of_a_half_pays_for_one_worker,
    memory_limit_lowers_the_count,
    plan_names_the_number_the_file_and_the_rule,
    stop_is_prompt_and_ends_with_0,
    worker_that_ignores_term_is_killed_after_the_grace,
    stopped_worker_still_gets_its_term,
    daemon_in_a_session_of_its_own_is_ended_too,
    killed_worker_is_replaced,
    thousand_orphans_are_reaped,
    full_pids_limit_leaves_the_living_alone,
    worker_is_as_restricted_as_its_container,
    process_that_entered_hears_of_the_stop,
    process_that_entered_and_stays_costs_a_second_at_most,
    exit_status_says_what_went_wrong,
    one_shot_runs_once,
]
