"""The measurements of sharing. Each is a function of the ground that returns rows: (what, seen, compared with, target)."""
import contextlib
import os
import random
import statistics
import subprocess
import time

from ground import until
from serving import PORT, command, serving

# Node without Node's own protocol; `graceful` has shutdown code, the others have none.
WITH_HANDLER = [("go", "graceful"), ("node", "graceful")]
WITHOUT = [("go",), ("node",), ("python",)]
CLIENTS = 16


def throughput(ground, scale):
    """N copies under clusterinit, N copies with SO_REUSEPORT, one bare process: short runs in turn, compared in pairs."""
    serve, copies, rows = ground.program("serve"), 2, []
    with contextlib.ExitStack() as stack:
        servers = {
            "clusterinit": stack.enter_context(serving(ground, [serve, PORT], WORKERS=copies)),
            "SO_REUSEPORT": stack.enter_context(serving(ground, [serve, PORT, "reuseport", copies], bare=True)),
            "one process": stack.enter_context(serving(ground, [serve, PORT], bare=True)),
        }
        servers["clusterinit"].shares()
        for mode, words in (("keep-alive", []), ("close", ["-H", "Connection: close"])):
            seen = {name: [] for name in servers}
            for _ in range(max(3, scale(21))):
                for name in random.sample(sorted(servers), len(servers)):
                    seen[name].append(servers[name].wrk(2, *words))
            ratio = statistics.median(a / b for a, b in zip(seen["clusterinit"], seen["SO_REUSEPORT"], strict=True))
            rate = {name: statistics.median(list_) for name, list_ in seen.items()}
            others = ", ".join(f"{name} {rate[name]:,.0f}/s" for name in ("SO_REUSEPORT", "one process"))
            what = f"{copies} copies, {mode}: requests" + (", each a new connection" if mode == "close" else "")
            rows.append((what, f"{rate['clusterinit']:,.0f}/s, ratio {ratio:.3f}", others, "ratio ≥ 0.97"))
    return rows


def told(seen):
    """What a load client counted, in a few words."""
    causes = ", ".join(f"{seen[name]} {name}" for name in ("reset", "eof", "refused", "timeout", "other") if seen[name])
    retried = f"; {seen['retried']} retried" if seen["retried"] else ""
    return f"{seen['failed']} failed of {seen['ok'] + seen['failed']:,}" + (f" ({causes})" if causes else "") + retried


def loads():
    return [("close", ["mode=close"]), ("keep-alive", ["mode=keep", "think=1ms"])]


def crashes(ground, scale):
    """kill -9 of a worker under load, four times, each when all have been ready for a second."""
    rows, count = [], max(2, scale(4))
    for name, *words in WITHOUT:
        for mode, load_words in loads():
            with serving(ground, command(ground, name, 1, *words), WORKERS=2) as server, server.load(f"clients={CLIENTS}", *load_words) as load:
                server.shares()
                for _ in range(count):
                    until(lambda: all(row["uptime_seconds"] > 2.1 for row in server.all_ready(2)), "ready for a second")
                    victim = random.choice(server.workers())
                    os.kill(victim, 9)
                    until(lambda: victim not in server.workers(), "it was reaped")
                    server.all_ready(2)
                seen = load.finish()
            rows.append((f"{count} × kill -9, {name}, {mode}", told(seen), "", "only what it had accepted"))
    return rows


def restarts(ground, scale):
    """Rolling restarts under load."""
    rows, count = [], scale(20)
    for handler, servers in ((True, WITH_HANDLER), (False, WITHOUT)):
        for name, *words in servers:
            for mode, load_words in loads():
                if mode == "keep-alive" and not handler:
                    load_words = ["mode=keep", "think=5ms"]
                with serving(ground, command(ground, name, 1, *words), WORKERS=2) as server, server.load(f"clients={CLIENTS}", *load_words) as load:
                    server.shares()
                    for _ in range(count):
                        server.reload(2)
                    seen = load.finish()
                kind = "with shutdown code" if handler else "without"
                rows.append((f"{count} rolling restarts, {name} {kind}, {mode}", told(seen), "", "0 failed"))
    return rows


def quiet(ground, scale):
    """Requests begun and not answered in 50 stops of servers without shutdown code, with 8 connections on each worker."""
    rows, stops = [], 2 * scale(25)
    for name, *words in WITHOUT:
        seen = {when: cut_off(ground, command(ground, name, 4, *words), stops, "5ms", when) for when in ("quiet", "now")}
        target = "≤ 1" if stops == 50 else ""
        rows.append((f"{name}, 5 ms think time: requests cut off in {stops} stops", seen["quiet"], f"TERM at once: {seen['now']}", target))
        busy = {when: cut_off(ground, command(ground, name, 4, *words), stops, "0ms", when) for when in ("quiet", "now")}
        rows.append((f"{name}, no think time: requests cut off in {stops} stops", busy["quiet"], f"TERM at once: {busy['now']}", "reported"))
    return rows


def cut_off(ground, words, stops, think, when):
    log = ground.file()
    log.touch(0o666)
    line = [*words, f"log={log}"]
    with serving(ground, line, WORKERS=2, STOP_WHEN=when, GRACE="8s") as server:
        server.shares()
        with server.load("clients=16", "mode=keep", "ids", "path=/", f"think={think}") as load:
            began = time.monotonic()
            for _ in range(stops // 2):
                server.reload(2)
            took = (time.monotonic() - began) / stops
            seen = load.finish()
    begun = set(log.read_text().split())
    cut = sum(str(number) in begun for number in seen["failed_ids"])
    return f"{cut} ({len(seen['failed_ids']) - cut} not begun, {seen['failed']} failed; {took * 1000:.0f} ms a stop)"


def balance(ground, scale):
    """64 connections that are kept, on 4 workers."""
    runs = []
    with serving(ground, [ground.program("serve"), PORT], WORKERS=4) as server:
        server.shares()
        for _ in range(scale(20)):
            with server.load("clients=64", "hold", "for=0.5s") as load:
                seen = load.finish()
            if seen["failed"]:
                raise RuntimeError(told(seen))
            runs.append(sorted([*seen["answers"].values(), 0, 0, 0, 0], reverse=True)[:4])
    least, most = [run[-1] for run in runs], [run[0] for run in runs]
    seen = f"smallest {statistics.median(least):g} (worst {min(least)}), largest {statistics.median(most):g} (worst {max(most)})"
    return [(f"64 connections on 4 workers, {len(runs)} runs: medians", seen, "", "≥ 10, ≤ 23; all in 4..31")]


def calls(ground, scale):
    """bind and listen of a worker, with 1 and with 100 slots; and without anybody who looks."""
    rows, rounds = [], scale(1000)
    for workers in (1, max(2, scale(100))):
        bound, listened = call_times(ground, rounds, workers)
        bare = call_times(ground, rounds, None)
        seen = f"bind {bound:.0f} µs, listen {listened:.0f} µs"
        rows.append((f"a worker's calls, median of {rounds}, {workers} slots", seen, f"bare: {bare[0]:.1f} µs, {bare[1]:.1f} µs", "≤ 100 µs each"))
    return rows


def call_times(ground, rounds, workers):
    go, out = ground.file(), ground.file()
    line = [ground.program("binds"), PORT, rounds, go, out]
    bare = workers is None
    context = serving_without_answers(ground, line) if bare else serving(ground, line, WORKERS=workers)
    with context as server:
        if not bare:
            server.shares()
        go.touch()
        until(lambda: out.exists() and out.read_text().endswith("\n"), "it was measured", 60)
        return [int(ns) / 1000 for ns in out.read_text().split()]


@contextlib.contextmanager
def serving_without_answers(ground, line):
    """The bare program listens and never answers, so nobody waits for that."""
    process = subprocess.Popen(["unshare", "--net", *map(str, line)], stdin=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def idle(ground, scale):
    """Wake-ups of PID 1 while nothing happens, with shared ports and open connections."""
    seconds = scale(10)
    with serving(ground, [ground.program("serve"), PORT], WORKERS=4) as server:
        server.shares()
        with server.load("clients=8", "hold"):
            # Ten seconds after the last start what nobody uses is given back: that is not yet rest.
            time.sleep(13)
            before = server.wakeups()
            time.sleep(seconds)
            rate = (server.wakeups() - before) / seconds
    return [("idle, 4 workers that share a port: wake-ups per second", f"{rate:.1f}", "", "0")]


ALL = [throughput, crashes, restarts, quiet, balance, calls, idle]
