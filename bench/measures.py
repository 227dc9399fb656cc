"""The measurements. Each is a function of the ground that returns rows of the table: (what, ours, the others, target)."""
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ground import FLOOR, OURS, now_ns, until

ONE = {"WORKERS": 1, "RESTART": "never"}
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def shuffled(inits):
    return random.sample(sorted(inits.items()), len(inits))


def others(values, text):
    return ", ".join(f"{name} {text(value)}" for name, value in values.items() if name != OURS)


def medians(values):
    return {name: statistics.median(list_) for name, list_ in values.items()}


def reap(ground, scale):
    """20,000 orphans that exit at once, under each init, rounds interleaved and shuffled."""
    count, inits = 20_000, ground.inits()
    drain, cpu, left = ({name: [] for name in inits} for _ in range(3))
    for _ in range(scale(5)):
        for name, init in shuffled(inits):
            out = ground.file()
            ground.launch("run", *init, ground.program("orphans"), count, out, **ONE)
            seen = json.loads(out.read_text())
            drain[name].append(seen["drain_ms"])
            cpu[name].append(seen["cpu_ms"] * 1000 / seen["made"])
            left[name].append(seen["left"])
    ratio = statistics.median(a / b for a, b in zip(drain[OURS], drain[FLOOR], strict=True))
    ms, us = medians(drain), medians(cpu)
    return [
        ("20,000 orphans at once: left over", str(sum(left[OURS])), others(left, lambda list_: str(sum(list_))), "0"),
        ("… drain time, ratio to plain C", f"{ms[OURS]:.0f} ms, {ratio:.2f}", others(ms, lambda v: f"{v:.0f} ms"), "≤ 1.2"),
        ("… CPU of PID 1 per orphan", f"{us[OURS]:.1f} µs", others(us, lambda v: f"{v:.1f} µs"), "≤ 10 µs"),
    ]


def start(ground, scale):
    """PID 1's exec to its worker's first instruction of main, and the whole run of a program that does nothing."""
    inits = ground.inits()
    to_exec, whole = ({name: [] for name in inits} for _ in range(2))
    for _ in range(scale(150)):
        for name, init in shuffled(inits):
            stamp = ground.file()
            answer = ground.launch("run", *init, ground.program("worker"), stamp, "exit", **ONE)
            began, ended, status = map(int, answer.stdout.split())
            if status != 0:
                raise RuntimeError(f"{name}: exit status {status}: {answer.stderr}")
            to_exec[name].append((int(stamp.read_text().split()[0]) - began) / 1e6)
            whole[name].append((ended - began) / 1e6)
    ms, all_ms = medians(to_exec), medians(whole)
    ratio = f", {ms[OURS] / ms['tini']:.2f} × tini's" if "tini" in ms else ""
    return [
        ("start: exec of PID 1 → exec of the worker", f"{ms[OURS]:.2f} ms{ratio}", others(ms, lambda v: f"{v:.2f} ms"), "≤ 2 × tini's"),
        ("whole run of a program that does nothing", f"{all_ms[OURS]:.2f} ms", others(all_ms, lambda v: f"{v:.2f} ms"), ""),
    ]


def lost_term(ground, scale):
    """TERM soon after the exec: a PID 1 that is not ready for it never sees it."""
    runs = scale(100)
    inits = {name: init for name, init in ground.inits().items() if name in (OURS, "catatonit", "tini")}
    rows = []
    for wait in (500, 1000, 2000):
        lost = dict.fromkeys(inits, 0)
        for _ in range(runs):
            for name, init in shuffled(inits):
                answer = ground.launch("term", wait, *init, ground.program("worker"), os.devnull, "stay", **ONE)
                lost[name] += answer.stdout.strip() == "lost"
        what = f"TERM lost, sent {wait / 1000:g} ms after exec, of {runs}"
        rows.append((what, str(lost[OURS]), others(lost, str), "≤ catatonit's"))
    return rows


def respawn(ground, scale):
    """kill -9 of a worker to the first instruction of its successor's main. Only workers that were ready for a second count."""
    took = []
    with ground.running(ground.inits()[OURS], "stay", WORKERS=8, READY="notify") as init:
        until(lambda: len(init.starts()) == 8, "8 workers run")
        for _ in range(scale(8)):
            time.sleep(1.3)
            for pid in init.workers():
                before, killed = len(init.starts()), now_ns()
                os.kill(pid, 9)
                until(lambda before=before: len(init.starts()) > before, "a successor runs")
                took.append((init.starts()[-1] - killed) / 1e6)
    took.sort()
    ours = f"{statistics.median(took):.2f} ms, p99 {took[len(took) * 99 // 100]:.2f} ms"
    return [("kill -9 of a worker → exec of its successor", ours, "", "≤ 2 ms median")]


def idle(ground, scale):
    """Wake-ups and memory at rest: all inits side by side, for ten seconds."""
    seconds = scale(10)
    with contextlib.ExitStack() as stack:
        inits = {}
        for name, init in ground.inits().items():
            settings = {"WORKERS": 4, "READY": "notify", "WORKER_MEMORY": "off"}
            inits[name] = stack.enter_context(ground.running(init, "stay", **settings))
        time.sleep(4)
        before = {name: init.wakeups() for name, init in inits.items()}
        time.sleep(seconds)
        rate = {name: (init.wakeups() - before[name]) / seconds for name, init in inits.items()}
        memory = {name: init.memory_kib() for name, init in inits.items()}
    rows = [
        ("idle, 4 workers: wake-ups per second", f"{rate[OURS]:.1f}", others(rate, lambda v: f"{v:.1f}") + " (1 worker each)", "0"),
        memory_row("… resident, anonymous", memory),
    ]
    with always_huge() as possible:
        if possible:
            with ground.running(ground.inits()[OURS], "stay", WORKERS=4, READY="notify", WORKER_MEMORY="off") as init:
                time.sleep(4)
                rows.append(memory_row("… with transparent huge pages always", {OURS: init.memory_kib()}))
    return rows


def memory_row(what, memory):
    text = lambda pair: ", ".join(f"{kib * 1024 / 1e6:.2f} MB" for kib in pair)
    return (what, text(memory[OURS]), others(memory, text), "≤ 2.0 MB, ≤ 0.5 MB")


@contextlib.contextmanager
def always_huge():
    """Transparent huge pages for everybody while the block runs; false where that may not be set."""
    try:
        before = HUGE_PAGES.read_text().partition("[")[2].partition("]")[0]
        HUGE_PAGES.write_text("always")
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        HUGE_PAGES.write_text(before)


def thousand(ground, scale):
    """A thousand workers: start, memory, and the death of all of them at once; a hundred for comparison."""
    big, small = scale(1000), scale(100)
    one_rss, one_anonymous = crowd(ground, 1)["memory"]
    few, many = crowd(ground, small), crowd(ground, big)
    rss, anonymous = many["memory"]
    per = lambda more, less: (more - less) / (big - 1)
    return [
        (f"{big} workers: all run after", f"{many['start_s']:.2f} s", "", "≤ 3 s"),
        ("… PID 1's memory per worker: anonymous, resident", f"{per(anonymous, one_anonymous):.1f} KiB, {per(rss, one_rss):.1f} KiB", "", "≤ 8 KiB"),
        ("… kill -9 of all: replaced", f"{many['replaced']} of {big} in {many['replace_s']:.2f} s", "", "all"),
        (f"… CPU of PID 1 per death and start, {small} → {big} workers", f"{few['us']:.0f} µs → {many['us']:.0f} µs", "", "does not grow"),
    ]


def crowd(ground, count):
    with ground.running(ground.inits()[OURS], "stay", WORKERS=count, READY="running", WORKER_MEMORY="off") as init:
        until(lambda: len(init.starts()) == count, f"{count} workers run", 120)
        seen = {"start_s": (max(init.starts()) - init.exec_ns) / 1e9}
        until(lambda: init.ready() == count, f"{count} workers are ready", 120)
        time.sleep(1.3)
        seen["memory"] = init.memory_kib()
        cpu, victims, killed = init.cpu_ns(), init.workers(), now_ns()
        for pid in victims:
            os.kill(pid, 9)
        with contextlib.suppress(TimeoutError):
            until(lambda: len(init.starts()) >= 2 * count, "all are replaced", 60)
        time.sleep(0.2)
        seen["replaced"] = len(init.starts()) - count
        seen["replace_s"] = (max(init.starts()) - killed) / 1e9
        seen["us"] = (init.cpu_ns() - cpu) / 1000 / count
        return seen


def storm(ground, scale):
    """/healthz while 200 workers a second crash and 20,000 orphans exit at once."""
    flag, out = ground.file(), ground.file()
    flag.touch()
    settings = {"WORKERS": scale(260), "READY": "notify", "WORKER_MEMORY": "off"}
    with ground.running(ground.inits()[OURS], "crash", 1100, **settings) as init:
        until(lambda: len(init.starts()) > 2 * settings["WORKERS"], "workers crash and come back")
        began, before = time.monotonic(), len(init.starts())
        probe = init.enter(ground.program("probe"), 9180, "/healthz", "HTTP/1.1 200", flag)
        probe = subprocess.Popen(probe, stdout=subprocess.PIPE, text=True)
        orphans = init.enter(ground.program("orphans"), 20_000, out, namespaces="-p -m")
        subprocess.run(orphans, check=True)
        while time.monotonic() < began + scale(15):
            time.sleep(0.1)
        rate = (len(init.starts()) - before) / (time.monotonic() - began)
        flag.unlink()
        asked, wrong, p50, p99, most = map(int, probe.communicate()[0].split())
    left = json.loads(out.read_text())["left"]
    ours = f"p50 {p50 / 1000:.2f} ms, p99 {p99 / 1000:.2f} ms, most {most / 1000:.1f} ms; {wrong} wrong of {asked}"
    return [(f"/healthz in a storm: {rate:.0f} crashes/s, 20,000 orphans ({'some' if left else 'none'} left)", ours, "", "p99 ≤ 5 ms, 0 wrong")]


def scrape(ground, scale):
    """/metrics and /workers of 100 workers: measured anew, and within the 250 ms for which figures are kept."""
    rows = []
    with ground.running(ground.inits()[OURS], "stay", WORKERS=100, READY="notify", WORKER_MEMORY="off") as init:
        until(lambda: init.ready() == 100, "100 workers are ready")
        for path in ["/metrics", "/workers"]:
            asked = init.enter(sys.executable, "-c", ASK, path, max(5, scale(60)), init.pid)
            told = json.loads(subprocess.run(asked, check=True, capture_output=True, text=True, timeout=120).stdout)
            text = lambda kind: "p50 {:.2f} ms, p99 {:.2f} ms; CPU of PID 1 {:.2f} ms".format(*told[kind])
            target = "p50 ≤ 5 ms" if path == "/metrics" else ""
            rows.append((f"{path}, 100 workers ({told['bytes'] / 1000:.0f} kB): measured anew", text("anew"), "", target))
            rows.append(("… within 250 ms", text("kept"), "", target))
    return rows


# Run inside the network namespace, over one connection; a pause that outlasts what is kept, then five requests that do not.
ASK = """
import http.client, json, statistics, sys, time
path, rounds, pid = sys.argv[1], int(sys.argv[2]), sys.argv[3]
side, took, size = http.client.HTTPConnection("127.0.0.1", 9180, timeout=10), {"anew": [], "kept": []}, 0
cpu = lambda: int(open(f"/proc/{pid}/schedstat").read().split()[0])
def ask(kind):
    global size
    before, began = cpu(), time.perf_counter_ns()
    side.request("GET", path)
    size = len(side.getresponse().read())
    took[kind].append((time.perf_counter_ns() - began, cpu() - before))
for _ in range(rounds):
    time.sleep(0.3)
    ask("anew")
    for _ in range(5):
        ask("kept")
def figures(pairs):
    wall, used = (sorted(values) for values in zip(*pairs))
    return [value / 1e6 for value in (statistics.median(wall), wall[min(len(wall) - 1, len(wall) * 99 // 100)], statistics.median(used))]
print(json.dumps({"bytes": size, **{kind: figures(pairs) for kind, pairs in took.items()}}))
"""


def size(ground, _scale):
    return [("static binary", f"{ground.binary.stat().st_size / 1e6:.2f} MB", "", "≤ 3 MB")]


ALL = [reap, start, lost_term, respawn, idle, thousand, storm, scrape, size]
