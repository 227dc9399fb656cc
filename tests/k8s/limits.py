"""A cgroup with the CPU and memory limits of a container, for as long as a `with` block. Version 1 or 2, as root."""
import contextlib
import os
from pathlib import Path

from manifests import Skipped

ROOT = Path("/sys/fs/cgroup")
PERIOD = 100_000


@contextlib.contextmanager
def cgroups(cpus, memory):
    """Folders; a process whose pid is written to their `cgroup.procs` is under the limits. None: no such limit."""
    if os.geteuid() != 0:
        raise Skipped("limits need root: a cgroup is made")
    version_2 = (ROOT / "cgroup.controllers").exists()
    name = f"clusterinit-k8s-{os.getpid()}"
    folders = [ROOT / name] if version_2 else [ROOT / "cpu" / name, ROOT / "memory" / name]
    quota = None if cpus is None else round(cpus * PERIOD)
    try:
        if version_2:
            (ROOT / "cgroup.subtree_control").write_text("+cpu +memory")
        for folder in folders:
            folder.mkdir()
        if quota:
            file, text = ("cpu.max", f"{quota} {PERIOD}") if version_2 else ("cpu.cfs_quota_us", str(quota))
            (folders[0] / file).write_text(text)
        if memory:
            (folders[-1] / ("memory.max" if version_2 else "memory.limit_in_bytes")).write_text(str(memory))
    except OSError as error:
        remove(folders)
        raise Skipped(f"no cgroup can be made here: {error}") from None
    try:
        yield folders
    finally:
        remove(folders)


def remove(folders):
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
