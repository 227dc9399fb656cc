"""The PrometheusRule: `promtool check rules`, then `promtool test rules` with alerts.yaml, on what was rendered.

An alert on a metric that nobody exposes stays silent for ever, so the series of alerts.yaml are compared with the pinned /metrics.
"""
import re
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import yaml

from manifests import REPOSITORY, Failed, expect

UNIT_TESTS = Path(__file__).with_name("alerts.yaml")
PINNED = REPOSITORY / "src/http/metrics/pinned.txt"
# Labels that Prometheus adds by the PodMonitor, and those whose values are ours alone.
ADDED, WORDS = {"namespace", "pod"}, ("reason", "outcome")


def tests(tools, rules):
    promtool = tools / "bin/promtool"
    yield "alerts/check", lambda: run(promtool, "check", rules())
    yield "alerts/test", lambda: run(promtool, "test", rules())
    yield "alerts/each is tested", lambda: each_is_tested(rules())
    yield "alerts/each metric is exposed", lambda: exposed(series(), PINNED.read_text())
    yield "can fail/alerts: a metric that is not exposed", lambda: misses({"clusterinit_rady": {}}, "clusterinit_rady")
    yield "can fail/alerts: a reason that is none", lambda: misses(
        {"clusterinit_worker_restarts_total": {"worker": {"0"}, "reason": {"oom"}}}, "oom")
    for name, spoil in SPOILED.items():
        yield f"can fail/alerts: {name}", partial(objects, promtool, rules, spoil)


def run(promtool, verb, spec):
    with tempfile.TemporaryDirectory(prefix="k8s-") as folder:
        file = Path(folder) / "rules.yaml"
        file.write_text(yaml.safe_dump(spec))
        if verb == "test":
            # It names its rules by a path beside itself.
            file = Path(folder) / "alerts.yaml"
            file.write_text(UNIT_TESTS.read_text())
        answer = subprocess.run([promtool, verb, "rules", file], capture_output=True, text=True, timeout=60)
    if answer.returncode != 0:
        raise Failed(f"promtool {verb} rules: {answer.stdout}{answer.stderr}")


def cases():
    return yaml.safe_load(UNIT_TESTS.read_text())["tests"]


def series():
    """The metrics of the tests: each label of a name, with the values that it has."""
    return labels(one["series"] for case in cases() for one in case["input_series"])


def labels(lines):
    found = {}
    for line in lines:
        name, _, inside = line.partition("{")
        of_name = found.setdefault(name.split()[0], {})
        for label, value in re.findall(r'(\w+)="([^"]*)"', inside):
            of_name.setdefault(label, set()).add(value)
    return found


def exposed(wanted, page):
    """Names and labels as on the page, and no word as a value that the page does not know."""
    known = labels(line for line in page.splitlines() if not line.startswith("#"))
    for name, own in wanted.items():
        if name not in known:
            raise Failed(f"{name} is not in /metrics")
        expect(f"labels of {name}", set(own) - ADDED, set(known[name]))
        for label in WORDS:
            if strange := own.get(label, set()) - known[name].get(label, set()):
                raise Failed(f"{name} has never {label}={strange}")


def misses(wanted, complaint):
    try:
        exposed(wanted, PINNED.read_text())
    except Failed as said:
        expect("the complaint names it", complaint in str(said), True)
        return
    raise Failed("nothing objects")


def each_is_tested(spec):
    """Every alert is expected to fire at least once, and every metric in an expression is one of the tests' series."""
    fired = {one["alertname"] for case in cases() for one in case["alert_rule_test"] if one.get("exp_alerts")}
    rules = [rule for group in spec["groups"] for rule in group["rules"]]
    expect("alerts that a test sees firing", fired, {rule["alert"] for rule in rules})
    expect("metrics", set(series()), {name for rule in rules for name in re.findall(r"\bclusterinit_\w+", rule["expr"])})


ANY_REASON = "sum by (namespace, pod, reason) (increase(clusterinit_worker_restarts_total[15m])) > 5"
# A rule's number, what is changed in it, and a word of what promtool says.
SPOILED = {
    "a minute too early": (0, {"for": "4m"}, "time: 6m"),
    "a minute too late": (0, {"for": "6m"}, "time: 7m"),
    "an expression that is none": (0, {"expr": "clusterinit_workers_ready <"}, "parse error"),
    "reasons that are no failures": (2, {"expr": ANY_REASON}, 'reason="exit"'),
}


def objects(promtool, rules, spoil):
    at, change, complaint = spoil
    spec = rules()
    spec["groups"][0]["rules"][at].update(change)
    try:
        run(promtool, "test", spec)
    except Failed as said:
        if complaint not in str(said):
            raise Failed(f"it objects, but to something else: {said}") from None
        return
    raise Failed("promtool does not object")
