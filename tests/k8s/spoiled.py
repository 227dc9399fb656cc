"""Manifests that were spoiled on purpose, one fault each, with the check that has to object and a word of what it has to say."""
from functools import partial

import references
import restricted
from manifests import Failed, container, pod, the


def deployment_spec(objects):
    return the(objects, "Deployment")["spec"]


def put(place, **fields):
    """Sets fields of a part of what was rendered; `None` takes one away."""
    def spoil(objects):
        part = place(objects)
        for name, value in fields.items():
            if value is None:
                del part[name]
            else:
                part[name] = value
    return spoil


def security(objects):
    return container(objects)["securityContext"]


def pod_spec(objects):
    return pod(objects)["spec"]


def spec_of(kind):
    return lambda objects: the(objects, kind)["spec"]


def added(name, value):
    return lambda objects: container(objects).setdefault("env", []).append({"name": name, "value": value})


def resources(kind):
    return lambda objects: container(objects)["resources"][kind]


def of_env(name):
    return lambda objects: next(one for one in container(objects)["env"] if one["name"] == name)


def first_rule(objects):
    return spec_of("PrometheusRule")(objects)["groups"][0]["rules"][0]


def context(objects):
    return pod_spec(objects)["securityContext"]


def probe(kind):
    return lambda objects: container(objects)[f"{kind}Probe"]


def path(kind):
    return lambda objects: probe(kind)(objects)["httpGet"]


def service_port(objects):
    return spec_of("Service")(objects)["ports"][0]


def second_rule(objects):
    return spec_of("NetworkPolicy")(objects)["ingress"][1]


def measured(objects):
    return spec_of("HorizontalPodAutoscaler")(objects)["metrics"][0]["containerResource"]


def endpoint(objects):
    return spec_of("PodMonitor")(objects)["podMetricsEndpoints"][0]


def resource_field(objects):
    return of_env("CLUSTERINIT_WORKERS")(objects)["valueFrom"]["resourceFieldRef"]


# Name, kustomization, what is spoiled, and a word of the complaint.
SCHEMAS = [
    ("a field that does not exist", "base", put(pod_spec, terminationGracePeriod=30), "terminationGracePeriod"),
    ("a text for a number", "base", put(deployment_spec, minReadySeconds="5"), "minReadySeconds"),
    ("no selector", "base", put(deployment_spec, selector=None), "selector"),
    ("an autoscaler without an end", "base", put(spec_of("HorizontalPodAutoscaler"), maxReplicas=None), "maxReplicas"),
    ("a PodMonitor's field", "base+monitoring", put(spec_of("PodMonitor"), podMetricEndpoint=[]), "podMetricEndpoint"),
    ("a PodMonitor's type", "base+monitoring", put(spec_of("PodMonitor"), podMetricsEndpoints=7), "podMetricsEndpoints"),
    ("a rule's duration", "base+alerts", put(first_rule, **{"for": "soon"}), "/for"),
]
RESTRICTED = [(complaint, "base", spoil, complaint) for complaint, spoil in [
    ("allowPrivilegeEscalation", put(security, allowPrivilegeEscalation=None)),
    ("ALL capabilities", put(security, capabilities={"drop": ["NET_RAW"]})),
    ("capabilities are added", put(security, capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]})),
    ("server: privileged", put(security, privileged=True)),
    ("init: privileged", put(pod_spec, initContainers=[{"name": "init", "securityContext": {"privileged": True}}])),
    ("procMount", put(security, procMount="Unmasked")),
    ("root file system", put(security, readOnlyRootFilesystem=None)),
    ("runAsNonRoot", put(context, runAsNonRoot=None)),
    ("runAsUser is 0", put(context, runAsUser=0)),
    ("no number as runAsUser", put(context, runAsUser=None)),
    ("seccompProfile", put(context, seccompProfile={"type": "Unconfined"})),
    ("appArmorProfile", put(security, appArmorProfile={"type": "Unconfined"})),
    ("AppArmor is unconfined", lambda objects: pod(objects)["metadata"].update(
        annotations={"container.apparmor.security.beta.kubernetes.io/server": "unconfined"})),
    ("seLinuxOptions", put(security, seLinuxOptions={"type": "spc_t"})),
    ("hostProcess", put(security, windowsOptions={"hostProcess": True})),
    ("sysctl", put(context, sysctls=[{"name": "kernel.msgmax", "value": "1"}])),
    *((name, put(pod_spec, **{name: True})) for name in ("hostNetwork", "hostPID", "hostIPC")),
    ("hostPort", put(lambda objects: container(objects)["ports"][0], hostPort=80)),
    ("another host", put(path("liveness"), host="10.0.0.1")),
    ("volume", put(pod_spec, volumes=[{"name": "root", "hostPath": {"path": "/"}}])),
    ("token", put(pod_spec, automountServiceAccountToken=None)),
]]
ALL_SERVERS = {"matchLabels": {"app.kubernetes.io/name": "server"}}
REFERENCES = [
    ("a policy for the whole namespace", "base", put(spec_of("NetworkPolicy"), podSelector={}), "NetworkPolicy selects"),
    ("a budget for nobody", "base", put(spec_of("PodDisruptionBudget"), selector=None), "PodDisruptionBudget selects"),
    ("a budget for all instances", "readme", put(spec_of("PodDisruptionBudget"), selector=ALL_SERVERS), "PodDisruptionBudget"),
    ("a monitor of all instances", "readme", put(spec_of("PodMonitor"), selector=ALL_SERVERS), "PodMonitor"),
    ("a port that is not there", "base", put(service_port, targetPort="https"), "https"),
    ("the side port for clients", "base", put(service_port, targetPort="clusterinit"), "in the Service"),
    ("the side port for all", "base", put(second_rule, **{"from": None}), "who reaches clusterinit"),
    ("two owners of the replicas", "base", put(deployment_spec, replicas=2), "replicas"),
    ("no owner of the replicas", "consumer", put(deployment_spec, replicas=None), "replicas"),
    ("a sidecar is scaled by", "base", put(measured, container="proxy"), "measured"),
    ("liveness by readiness", "base", put(path("liveness"), path="/readyz"), "liveness"),
    ("another path of metrics", "base+monitoring", put(endpoint, path="/"), "PodMonitor"),
]
PLAN = [
    ("an unknown variable", "base", added("CLUSTERINIT_WORKER", "2"), "CLUSTERINIT_WORKERS"),
    ("a grace without a unit", "consumer", put(of_env("CLUSTERINIT_GRACE"), value="55"), "CLUSTERINIT_GRACE"),
    ("a grace longer than the kubelet's", "base", added("CLUSTERINIT_GRACE", "21s"), "terminationGracePeriodSeconds"),
    ("the kubelet's default for a long job", "consumer", put(pod_spec, terminationGracePeriodSeconds=30), "GRACE 55"),
    ("readiness slower than the drain", "base", put(probe("readiness"), periodSeconds=5), "readiness"),
    ("ports that are not shared", "no-cpu-limit", added("CLUSTERINIT_SHARE", "off"), "not shared"),
    ("another limit", "base", put(resources("limits"), cpu="1"), "(1, 'CPU limit')"),
    ("memory for fewer", "base", put(resources("limits"), memory="128Mi"), "'at least one'"),
    ("no room for a successor", "node", put(resources("limits"), memory="800Mi"), "limits.memory"),
    ("caps beyond the limit", "small-workers", put(resources("limits"), memory="512Mi"), "is more than the limit"),
    ("a request that rounds to three", "no-cpu-limit", put(resources("requests"), cpu="2001m"), "(3, 'WORKERS')"),
    ("a divisor that makes it 1500", "no-cpu-limit", put(resource_field, divisor="1m"), "CLUSTERINIT_WORKERS=1500"),
    ("no request to count by", "no-cpu-limit", put(resources("requests"), cpu=None), "there is no requests.cpu"),
    ("more ready than there are", "small-workers", put(of_env("CLUSTERINIT_MIN_READY"), value="9"), "CLUSTERINIT_MIN_READY"),
    ("an entry point of its own", "node", put(container, command=["node", "server.js"]), "ENTRYPOINT"),
]


def tests(kustomizations, validator, plan):
    """Each spoiled manifest as a test; `plan` takes objects and what their kustomization promises."""
    checks = {
        "schemas": (SCHEMAS, lambda objects, _: validator.check(objects)),
        "restricted": (RESTRICTED, lambda objects, _: restricted.check(objects)),
        "references": (REFERENCES, lambda objects, _: references.check(objects)),
        "plan": (PLAN, lambda objects, kustomization: plan(objects, kustomization.promise())),
    }
    for kind, (table, check) in checks.items():
        for name, kustomization, spoil, complaint in table:
            yield f"can fail/{kind}: {name}", partial(objects_to, check, kustomizations.named(kustomization), spoil, complaint)


def objects_to(check, kustomization, spoil, complaint):
    spoilt = kustomization.render()
    spoil(spoilt)
    try:
        check(spoilt, kustomization)
    except Failed as said:
        if complaint not in str(said):
            raise Failed(f"it objects, but to something else: {said}") from None
        return
    raise Failed("nothing objects")
