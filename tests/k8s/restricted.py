"""The Pod Security Standard "restricted", with all of "baseline" in it, on rendered pods; and three rules of this project.

https://kubernetes.io/docs/concepts/security/pod-security-standards/, control by control. A field that is absent is what the
kubelet takes it for.
"""
from manifests import Failed, pod

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
           "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
           "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
           "net.ipv4.tcp_keepalive_probes"}
SELINUX = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
SECCOMP = {"RuntimeDefault", "Localhost"}
APPARMOR = {None, "RuntimeDefault", "Localhost"}


def check(objects):
    template = pod(objects)
    faults = [*of_pod(template), *ours(template["spec"])]
    if faults:
        raise Failed("; ".join(faults))


def of_pod(template):
    spec = template["spec"]
    own = spec.get("securityContext", {})
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        if set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is of a kind that is not allowed"
    for sysctl in own.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    for name, value in template["metadata"].get("annotations", {}).items():
        if name.startswith("container.apparmor.security.beta.kubernetes.io/") and value == "unconfined":
            yield "AppArmor is unconfined by annotation"
    yield from of_context("the pod", own)
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            yield from of_container(container, own)


def of_context(who, context):
    """What pods and containers both may say."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{who}: hostProcess"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield f"{who}: seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type") not in APPARMOR:
        yield f"{who}: appArmorProfile"
    if context.get("runAsUser") == 0:
        yield f"{who}: runAsUser is 0"


def of_container(container, pods):
    own, who = container.get("securityContext", {}), container["name"]
    yield from of_context(who, own)
    if own.get("privileged"):
        yield f"{who}: privileged"
    if own.get("procMount", "Default") != "Default":
        yield f"{who}: procMount"
    if own.get("allowPrivilegeEscalation", True):
        yield f"{who}: allowPrivilegeEscalation is not false"
    if not own.get("runAsNonRoot", pods.get("runAsNonRoot")):
        yield f"{who}: runAsNonRoot is not true"
    if own.get("seccompProfile", pods.get("seccompProfile", {})).get("type") not in SECCOMP:
        yield f"{who}: seccompProfile"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{who}: ALL capabilities are not dropped"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{who}: capabilities are added"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{who}: hostPort"
    probes = [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")]
    for action in [*probes, *container.get("lifecycle", {}).values()]:
        if any(action.get(way, {}).get("host") for way in ("httpGet", "tcpSocket")):
            yield f"{who}: a probe or hook goes to another host"


def ours(spec):
    """More than the standard asks for."""
    if spec.get("automountServiceAccountToken", True):
        yield "a service account's token is mounted"
    if not spec.get("securityContext", {}).get("runAsUser"):
        yield "no number as runAsUser: the kubelet cannot tell from an image's USER by name that it is not root"
    for container in spec["containers"]:
        if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
            yield f"{container['name']}: the root file system can be written"
