"""A machine of its own, whose only cgroup hierarchy is v2: QEMU without hardware help, the distribution's kernel, busybox and crun.

Its containers answer the questions that runc's do (lab.Container). It is slow: who survives can be seen there, not how fast.
"""
import base64
import contextlib
import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from lab import LONGEST_WAIT, REPOSITORY, Box, Failed, Skipped, bundle, run, until

CPUS = 4
MEMORY_MIB = 1536
# With cmpxchg16b QEMU 7.2's emulation panics newer kernels at random.
CPU = "max,-cx16"
BOOT_SECONDS = 90.0
SCRIPT_SECONDS = 90.0  # the machine gives up after 60
SLICE = 128  # bytes
CACHE = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "vm"


class NeverAnswered(Failed):
    """The machine did not come up; the only thing that is tried twice."""


class Vm:
    """One boot. `sh` runs a script in it."""

    def __init__(self, lab):
        for tool in ("qemu-system-x86_64", "busybox", "crun", "cpio", "apt-get", "dpkg-deb", "ldd"):
            if not shutil.which(tool):
                raise Skipped(f"{tool} is not installed")
        self.lab = lab
        self.folder = Path(tempfile.mkdtemp(prefix="vm-", dir=lab.folder))
        self.count = 0
        self.initrd = self.pack()
        self.kernel = kernel()
        try:
            self.boot()
        except NeverAnswered:
            self.close()
            self.boot()

    def pack(self):
        """The first root file system: busybox, crun with its libraries, and the containers' root."""
        root = self.folder / "root"
        for folder in ("bin", "usr/bin", "proc", "sys", "dev", "mnt"):
            (root / folder).mkdir(parents=True)
        shutil.copy(shutil.which("busybox"), root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        crun = shutil.which("crun")
        shutil.copy(crun, root / "usr/bin/crun")
        for word in run("ldd", crun).stdout.split():
            if word.startswith("/"):
                (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, root / word[1:])
        for folder in ("proc", "dev", "sys"):
            (root / "rootfs" / folder).mkdir(parents=True)
        for name in ("clusterinit", "eats"):
            # Half of the machine's memory would be symbols.
            if run("strip", "-o", root / "rootfs" / name, self.lab.root / name).returncode != 0:
                shutil.copy(self.lab.root / name, root / "rootfs")
        shutil.copy(REPOSITORY / "tests/containers/vm/init", root / "init")
        (root / "init").chmod(0o755)
        packed = self.folder / "initrd"
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        with packed.open("wb") as out:
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=out, cwd=root, check=True)
        return packed

    def boot(self):
        self.text = b""
        self.log = self.folder / "kernel.log"
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-M", "pc", "-cpu", CPU, "-accel", "tcg,thread=multi", "-smp", str(CPUS), "-m", str(MEMORY_MIB),
             "-display", "none", "-nodefaults", "-no-user-config", "-nic", "none", "-no-reboot", "-serial", f"file:{self.log}",
             "-serial", "stdio", "-kernel", self.kernel, "-initrd", self.initrd,
             "-append", "console=ttyS0 quiet panic=-1 mitigations=off"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        line = b""
        deadline = time.monotonic() + BOOT_SECONDS
        while line.strip() != b"up":
            line = self.line(deadline)

    def line(self, deadline):
        """The next line that it sends."""
        while b"\n" not in self.text:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise NeverAnswered(f"the machine does not answer: {self.last_words()}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise NeverAnswered(f"the machine has ended: {self.last_words()}")
            self.text += data
        line, _, self.text = self.text.partition(b"\n")
        return line

    def last_words(self):
        return self.text.decode(errors="replace")[-400:] + self.log.read_text(errors="replace")[-1500:]

    def sh(self, script):
        """(exit status, what it wrote)"""
        script = base64.b64encode(script.encode())
        answer = b"again"
        while answer == b"again":
            self.send(b"%d %s\n" % (len(script), script))
            answer = self.line(time.monotonic() + SCRIPT_SECONDS).strip()
        status, _, text = answer.partition(b" ")
        return int(status), base64.b64decode(text).decode(errors="replace")

    def send(self, line):
        """Slowly: the serial line has no flow control."""
        for at in range(0, len(line), SLICE):
            self.process.stdin.write(line[at:at + SLICE])
            self.process.stdin.flush()
            time.sleep(0.002)

    def done(self, script):
        """What a script wrote that has to succeed."""
        status, text = self.sh(script)
        if status != 0:
            raise Failed(f"{script!r} in the machine: {status}: {text[-500:]!r}")
        return text

    def close(self):
        self.process.kill()
        self.process.communicate()

    @contextlib.contextmanager
    def container(self, *command, **options):
        """As Lab.container, with crun."""
        self.count += 1
        container = VmContainer(self, f"c{self.count}", command, options)
        try:
            yield container
        except Exception as error:
            error.add_note(container.tail())
            raise
        finally:
            self.sh(f"crun delete -f {container.name}")


class VmContainer(Box):
    """One run of one bundle in the machine."""

    def __init__(self, vm, name, command, options):
        self.vm, self.name = vm, name
        self.folder = f"/run/bundles/{name}"
        # Options of a test that wants a parent with limits of its own.
        self.cgroup = options.pop("cgroup", f"/test/{name}")
        args = [str(word) for word in command]
        if args[0] != "/clusterinit":
            args = ["/clusterinit", "--", *args]
        config = json.dumps(bundle(args, "/rootfs", self.cgroup, **options))
        vm.done(f"mkdir -p {self.folder} && cd {self.folder} && echo {shlex.quote(config)} >config.json\n"
                f"(crun run {name} >stdout 2>stderr; echo $? >code) &")

    def read(self, name):
        return self.vm.sh(f"cat {self.folder}/{name} 2>/dev/null")[1]

    def output(self):
        return self.read("stdout")

    def log(self):
        return self.read("stderr")

    def status(self):
        status, text = self.vm.sh(f"crun exec {self.name} /clusterinit status --json 2>/dev/null")
        return json.loads(text) if status == 0 else None

    def check_alive(self):
        code = self.read("code").strip()
        if code:
            raise Failed(f"the container ended with {code}")

    def kill(self, signal="TERM"):
        self.vm.done(f"crun kill {self.name} {signal}")

    def update(self, *words):
        self.vm.done(f"crun update {' '.join(map(str, words))} {self.name}")

    def wait(self, seconds=LONGEST_WAIT * 2):
        return int(until("the container ends", lambda: self.read("code").strip(), seconds))

    def file(self, name):
        """A file of its cgroup, from outside."""
        return self.vm.done(f"cat /sys/fs/cgroup{self.cgroup}/{name}")

    def groups(self):
        """The cgroups below its own."""
        return self.vm.done(f"cd /sys/fs/cgroup{self.cgroup} && find . -mindepth 1 -type d").split()

    def named(self, name):
        """How many of its processes have this name."""
        return int(self.vm.sh(f"cd /sys/fs/cgroup{self.cgroup} && for pid in $(find . -name cgroup.procs -exec cat '{{}}' +); do "
                              f"cat /proc/$pid/comm; done 2>/dev/null | grep -cx {name}")[1])


def kernel():
    """The distribution's kernel for virtual machines, unpacked and not installed."""
    depends = run("apt-cache", "depends", "linux-image-cloud-amd64").stdout.split()
    package = next((word for word in depends if word.startswith("linux-image-") and word != "linux-image-cloud-amd64"), None)
    if not package:
        raise Failed("apt knows no linux-image-cloud-amd64 (apt-get update?)")
    folder = CACHE / package
    if not (found := list(folder.glob("boot/vmlinuz-*"))):
        fresh = CACHE / f"fresh-{os.getpid()}"
        fresh.mkdir(parents=True)
        answer = run("apt-get", "download", "-qq", package, cwd=fresh, timeout=300)
        if answer.returncode != 0:
            raise Failed(f"apt-get download {package}: {answer.stderr}")
        subprocess.run(["dpkg-deb", "-x", *fresh.glob("*.deb"), fresh / "tree"], check=True)
        shutil.rmtree(folder, ignore_errors=True)
        (fresh / "tree").rename(folder)
        shutil.rmtree(fresh)
        found = list(folder.glob("boot/vmlinuz-*"))
    return str(found[0])
