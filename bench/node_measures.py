"""The measurements of Node mode. Each is a function of the ground that yields rows: (what, seen, compared with, target)."""
import contextlib
import os
import random
import signal
import statistics
import time

import managers
from managers import NODE_NONE, NODE_RR, OURS, OURS_RR, PM2, first_answer, managed, own_pid

APPS = [("plain app", "app.js"), ("app with a handler", "app_graceful.js")]
MODES = [("close", ["mode=close"]), ("keep-alive", ["mode=keep"])]
CLIENTS = 16
ANSWER_MS = 5
# A worker that the machine does not let run for two seconds is no error.
WRK = ["-c64", "--timeout", "10s"]


def row(what, cells, target):
    """One row of a table from a cell for each manager."""
    ours, others = (", ".join(f"{name} {cells[name]}" for name in names if name in cells) for names in (managers.OUR_MODES, managers.PEERS))
    return what, ours, others, target


def shuffled():
    return random.sample(managers.ALL, len(managers.ALL))


def all_of_them(ground, stack, script="app.js"):
    return {name: stack.enter_context(managed(ground, name, script)) for name in managers.ALL}


def throughput(ground, scale):
    """Two workers of the plain app under each: short runs in turn, compared in pairs."""
    rounds = max(3, scale(11))
    with contextlib.ExitStack() as stack:
        ran = all_of_them(ground, stack)
        for mode, words in (("keep-alive", []), ("close", ["-H", "Connection: close"])):
            seen = {name: [] for name in ran}
            for _ in range(rounds):
                for name in shuffled():
                    seen[name].append(ran[name].server.wrk(2 if rounds > 3 else 1, *WRK, *words))
            cells = {name: f"{statistics.median(rates):,.0f}/s" for name, rates in seen.items()}
            for name in managers.OUR_MODES:
                ratio = statistics.median(a / b for a, b in zip(seen[name], seen[NODE_RR], strict=True))
                cells[name] += f" ({ratio:.2f} × Node rr)"
            target = "≥ 1.8 ×, round robin ≥ 1.1 ×" if mode == "close" else "reported"
            yield row(f"requests, {mode}" + (", each a new connection" if mode == "close" else ""), cells, target)


def memory(ground, _scale):
    """Resident memory of the manager alone, at rest and after load."""
    with contextlib.ExitStack() as stack:
        ran = all_of_them(ground, stack)
        # Ten seconds after the last start clusterinit gives back what nobody uses.
        time.sleep(13)
        yield memory_row("at rest", ran)
        for one in ran.values():
            one.server.wrk(3, *WRK, "-H", "Connection: close")
        yield memory_row("after 3 s of new connections", ran)


def memory_row(when, ran):
    kib = {name: one.memory_kib() for name, one in ran.items()}
    cells = {name: f"{size / 1024:.1f} MiB" for name, size in kib.items()}
    for name in managers.OUR_MODES:
        # Each against the primary of the same policy, and the smaller of that and the daemon.
        peer = min(kib[NODE_NONE if name == OURS else NODE_RR], kib[PM2])
        cells[name] += f" (1/{peer / kib[name]:.0f})"
    return row(f"resident memory of the manager, {when}", cells, "≤ 1/20 of Node's primary and of PM2's daemon")


def successor(ground, scale):
    """From kill -9 of a worker to the first answer of its successor, without other load; one after the other in rounds."""
    rounds = max(3, scale(15))
    seen = {name: [] for name in managers.ALL}
    with contextlib.ExitStack() as stack:
        ran = all_of_them(ground, stack)
        threads = {name: stack.enter_context(one.network()) for name, one in ran.items()}
        for _ in range(rounds):
            for name in shuffled():
                # Nobody restarts at once what has just begun; and the machine is to be at rest.
                time.sleep(0.7)
                old = {own_pid(pid) for pid in ran[name].workers()}
                victim = random.choice(ran[name].workers())
                began = time.monotonic()
                os.kill(victim, signal.SIGKILL)
                seen[name].append(threads[name].submit(first_answer, old, began).result(60) * 1000)
    cells = {name: f"{statistics.median(times):.0f} ms (worst {max(times):.0f})" for name, times in seen.items()}
    yield row(f"kill -9 of a worker → its successor's first answer, median of {rounds}", cells, "reported")


def told(seen, *more):
    """What a load client counted, in a few words."""
    notes = [f"{seen['retried']} retried"] if seen["retried"] else []
    notes += [f"{seen['timeout']} hung"] if seen["timeout"] else []
    return ", ".join([f"{seen['failed']} failed of {seen['ok'] + seen['failed']:,}", *notes, *more])


def crashes(ground, scale):
    """kill -9 of a worker under load. What no worker had begun should not fail."""
    count = scale(4)
    for app, script in APPS if count > 1 else APPS[:1]:
        for mode, words in MODES:
            cells = {name: crash(ground, name, script, words, count) for name in shuffled()}
            what = f"{count} × kill -9 under load, {app}, {mode}"
            yield row(what, cells, "only what the killed process had, none hung")


def crash(ground, name, script, words, count):
    log = ground.file()
    log.touch(0o666)
    with managed(ground, name, script, DELAY=ANSWER_MS, LOG=log) as one, one.server.load(f"clients={CLIENTS}", "ids", *words) as load:
        for _ in range(count):
            time.sleep(2.2)
            one.kill_one(random.choice(one.workers()))
        time.sleep(1)
        seen = load.finish()
    begun = set(log.read_text().split())
    unseen = sum(str(number) not in begun for number in seen["failed_ids"])
    return told(seen, *([f"{unseen} not begun"] if unseen else []))


def restarts(ground, scale):
    """Rolling restarts under load without a pause."""
    count = scale(10)
    for app, script in APPS:
        for mode, words in MODES:
            cells = {name: restart(ground, name, script, words, count) for name in shuffled()}
            yield row(f"{count} rolling restarts under load, {app}, {mode}", cells, "0 failed")


def restart(ground, name, script, words, count):
    patience, took = 15 if count > 1 else 6, []
    with managed(ground, name, script, DELAY=ANSWER_MS) as one, one.server.load(f"clients={CLIENTS}", *words) as load:
        time.sleep(1)
        for _ in range(count):
            began = time.monotonic()
            if not one.roll(patience):
                break
            took.append(time.monotonic() - began)
        seen = load.finish()
    ended = f"{statistics.median(took):.1f} s each" if took else ""
    unended = f"not finished after {patience} s" if len(took) < count else ""
    return told(seen, *filter(None, [ended, unended]))


ALL = [throughput, memory, successor, crashes, restarts]
