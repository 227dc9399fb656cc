"""The environment of a rendered Deployment, shown to `clusterinit plan` under its limits and as its user.

It must be free of mistakes, wholly in force, and come to what the manifests' comments promise: the number of workers, a grace that
ends before the kubelet's, memory for one worker more.
"""
import math
import os
import re
import shutil
import subprocess
import tempfile
from decimal import Decimal
from pathlib import Path

from limits import cgroups
from manifests import Failed, Skipped, container, expect, pod

# What the kubelet is ahead of us at least, in seconds: the sweep after the workers (1 s) and a node under load.
MARGIN = 5
# Which rule of `plan` stands behind the value that a kustomization's head names.
RULES = {"limits.cpu": "CPU limit", "requests.cpu": "WORKERS", "CLUSTERINIT_WORKERS": "WORKERS"}
SUFFIXES = {"m": Decimal("0.001"), "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
UNITS = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600}


def quantity(text):
    number, suffix = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text)).groups()
    return Decimal(number) * SUFFIXES[suffix]


def seconds(text):
    number, unit = re.match(r"([0-9.]+)(ms|s|m|h)\b", text).groups()
    return Decimal(number) * UNITS[unit]


def environment(server):
    """As the kubelet makes it: resourceFieldRef is divided and rounded up. What no manifest can tell it is a fault."""
    found = {"PATH": "/usr/bin:/bin", "KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    for entry in server.get("env", []):
        if "value" in entry:
            if "$(" in entry["value"]:
                raise Failed(f"{entry['name']}: references to other variables are not resolved by this test")
            found[entry["name"]] = entry["value"]
            continue
        reference = entry["valueFrom"]["resourceFieldRef"]
        expect(f"the container that {entry['name']} is about", reference.get("containerName", server["name"]), server["name"])
        kind, resource = reference["resource"].split(".")
        if resource not in server["resources"].get(kind, {}):
            raise Failed(f"{entry['name']}: there is no {reference['resource']}; the kubelet would take 0, or the node's")
        divided = quantity(server["resources"][kind][resource]) / quantity(reference.get("divisor", "1"))
        found[entry["name"]] = str(math.ceil(divided))
    return found


def ask(binary, objects):
    """What `plan` prints."""
    server, spec = container(objects), pod(objects)["spec"]
    if "command" in server:
        raise Failed("`command` would take the place of the image's ENTRYPOINT, which is clusterinit")
    caps = server["resources"].get("limits", {})
    cpus = quantity(caps["cpu"]) if "cpu" in caps else None
    if cpus and len(os.sched_getaffinity(0)) < cpus:
        raise Skipped(f"a limit of {cpus} CPUs needs as many")
    user = str(spec["securityContext"]["runAsUser"])
    with tempfile.TemporaryDirectory(prefix="k8s-") as folder, cgroups(cpus, int(quantity(caps["memory"]))) as groups:
        # The binary's own place may be closed to that user.
        os.chmod(folder, 0o755)
        ours = shutil.copy(binary, Path(folder) / "clusterinit")
        unprivileged = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs", "--bounding-set=-all",
                        "--inh-caps=-all"]
        words = [*unprivileged, ours, "plan", "--", *server.get("args", ["./server"])]

        def enter():
            for group in groups:
                (group / "cgroup.procs").write_text("0")

        answer = subprocess.run(words, env=environment(server), preexec_fn=enter, stdin=subprocess.DEVNULL, capture_output=True,
                                text=True, timeout=60, cwd="/")
    if answer.returncode != 0:
        raise Failed(f"plan ends with {answer.returncode}: {answer.stderr.strip()}")
    return answer.stdout


class Page:
    """The printed page by section; a section is its lines."""

    def __init__(self, text):
        self.sections, lines = {}, []
        for line in text.splitlines():
            if line and not line.startswith(" "):
                lines = self.sections.setdefault(line.split(" (")[0], [])
            elif line:
                lines.append(line[2:])

    def __call__(self, section, label):
        """The first line of an answer: a label, filled up to 17 characters, and what follows."""
        for line in self.sections.get(section, []):
            if line[:18] == f"{label:<17} ":
                return line[18:]
        raise Failed(f"plan has no {label!r} under {section!r}")

    def setting(self, name):
        """Whether it was set, and what is in force."""
        return self("settings", name).split(maxsplit=1)


def check(binary, objects, promise):
    page = Page(ask(binary, objects))
    for section in ("not in force", "warnings"):
        if section in page.sections:
            raise Failed(f"{section}: {'; '.join(page.sections[section])}")
    count, by = promise
    expect("workers, and what decides", (int(page("workers", "count")), page("workers", "decided by")), (count, RULES[by]))
    mechanism = page("port sharing", "mechanism")
    if mechanism not in ("seccomp", "node"):
        raise Failed(f"ports are not shared: {mechanism}")
    grace(page, objects)
    memory(page, objects, count)
    if int(page.setting("MIN_READY")[1]) > count:
        raise Failed(f"MIN_READY is more than {count} workers")


def grace(page, objects):
    drain, stop = (seconds(page.setting(name)[1]) for name in ("DRAIN_DELAY", "GRACE"))
    allowed = pod(objects)["spec"]["terminationGracePeriodSeconds"]
    if drain + stop + MARGIN > allowed:
        raise Failed(f"DRAIN_DELAY {drain} s + GRACE {stop} s + {MARGIN} s is more than terminationGracePeriodSeconds: {allowed}")
    probe = container(objects)["readinessProbe"]
    notice = probe["periodSeconds"] * probe["failureThreshold"]
    if drain and notice >= drain:
        raise Failed(f"readiness takes {notice} s to fail, and DRAIN_DELAY is {drain} s")


def memory(page, objects, count):
    """A hard cap leaves room for a successor beside all that serve."""
    limit = quantity(container(objects)["resources"]["limits"]["memory"])
    given, cap = page.setting("WORKER_MEMORY")
    if given != "set":
        return
    reserve = page("memory", "reserve").split(":")[0]
    needed = (count + 1) * quantity(cap) + quantity(reserve)
    if needed > limit:
        raise Failed(f"{count} + 1 workers of {cap} and {reserve} of reserve are {needed} bytes, and limits.memory is {limit}")
