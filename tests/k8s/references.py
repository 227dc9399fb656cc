"""What names something names something that is there: selectors, ports, the autoscaler's target. Schemas cannot tell.

kustomize adds labels only to selectors that exist, so that a NetworkPolicy without one is for the whole namespace and a disruption
budget without one for nobody; no tool says so.
"""
from manifests import Failed, container, expect, pod, the

SIDE_PORT = {"path": {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}, "number": 9180}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def check(objects):
    kinds = {one["kind"] for one in objects}
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    expect("objects with a name of their own", len(set(names)), len(names))
    ports = {port["name"]: port["containerPort"] for port in container(objects)["ports"]}
    selectors(objects)
    side_port(objects, ports)
    policy(objects, ports)
    if "Service" in kinds:
        for port in the(objects, "Service")["spec"]["ports"]:
            named("the Service", port["targetPort"], ports)
            if port["targetPort"] == "clusterinit":
                raise Failed("the side port is in the Service")
    if "PodMonitor" in kinds:
        for endpoint in the(objects, "PodMonitor")["spec"]["podMetricsEndpoints"]:
            expect("the PodMonitor's port and path", (endpoint["port"], endpoint["path"]), ("clusterinit", "/metrics"))
    scaling(objects, "HorizontalPodAutoscaler" in kinds)


def named(who, port, ports):
    if port not in ports:
        raise Failed(f"{who} names port {port!r}, which the container does not have")


def selectors(objects):
    labels = pod(objects)["metadata"]["labels"]
    spread = pod(objects)["spec"]["topologySpreadConstraints"]
    found = {f"topologySpreadConstraints[{at}]": one["labelSelector"] for at, one in enumerate(spread)}
    for one in objects:
        spec = one["spec"]
        match one["kind"]:
            case "Service":
                found["Service"] = {"matchLabels": spec.get("selector")}
            case "NetworkPolicy":
                found["NetworkPolicy"] = spec["podSelector"]
            case "Deployment" | "PodDisruptionBudget" | "PodMonitor":
                found[one["kind"]] = spec.get("selector", {})
    for who, selector in found.items():
        wanted = selector.get("matchLabels")
        if not wanted or any(labels.get(name) != value for name, value in wanted.items()):
            raise Failed(f"{who} selects {wanted}, and the pods have {labels}")
        expect(f"labels that {who} selects by", wanted, found["Deployment"]["matchLabels"])


def side_port(objects, ports):
    expect("the port named clusterinit", ports.get("clusterinit"), SIDE_PORT["number"])
    for kind, path in SIDE_PORT["path"].items():
        probe = container(objects)[f"{kind}Probe"]["httpGet"]
        expect(f"the {kind} probe", (probe["path"], probe["port"]), (path, "clusterinit"))


def policy(objects, ports):
    """The side port is for Prometheus, every other port for all."""
    spec = the(objects, "NetworkPolicy")["spec"]
    expect("policyTypes", spec["policyTypes"], ["Ingress"])
    opened = set()
    for rule in spec["ingress"]:
        for port in rule["ports"]:
            named("the NetworkPolicy", port["port"], ports)
            opened.add(port["port"])
            expect(f"who reaches {port['port']}", rule.get("from"), [PROMETHEUS] if port["port"] == "clusterinit" else None)
    expect("ports that the NetworkPolicy opens", opened, set(ports))


def scaling(objects, autoscaled):
    """Exactly one owns the number of replicas."""
    deployment = the(objects, "Deployment")
    expect(f"replicas, with {'an' if autoscaled else 'no'} autoscaler", "replicas" in deployment["spec"], not autoscaled)
    expect("maxUnavailable", deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0)
    if autoscaled:
        spec = the(objects, "HorizontalPodAutoscaler")["spec"]
        target = spec["scaleTargetRef"]
        expect("what is scaled", (target["kind"], target["name"]), ("Deployment", deployment["metadata"]["name"]))
        for metric in spec["metrics"]:
            expect("the container that is measured", metric["containerResource"]["container"], container(objects)["name"])
            if "cpu" not in container(objects)["resources"]["requests"]:
                raise Failed("Utilization is a share of requests.cpu, and there is none")
