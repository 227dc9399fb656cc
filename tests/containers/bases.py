"""Base images under the names of the official ones, made of this machine's own files: no registry is at hand.

They hold what the Dockerfiles of examples/images need of them, at the same names, and in this machine's versions: `node` or `python3`
with what it is linked with; a Go that builds without cgo; a Rust that builds static programs. A shell is busybox.
"""
import contextlib
import io
import os
import platform
import re
import shutil
import stat
import subprocess
import sysconfig
import tarfile
from pathlib import Path

from lab import Failed, Skipped, run

REPOSITORY = Path(__file__).resolve().parents[2]
MUSL = f"{platform.machine()}-unknown-linux-musl"
# Large folders that no server needs, by their names.
NOT_OF_PYTHON = {"__pycache__", "test", "tests", "idlelib", "turtledemo", "ensurepip", "dist-packages", "site-packages"}
NOT_OF_GO = {"testdata", "cmd"}


class Base:
    """The files of one image, by their path in it."""

    def __init__(self, environment=()):
        self.files, self.links, self.environment = {}, {"bin/sh": "busybox"}, list(environment)
        self.put(needed("busybox"), "bin/busybox")

    def put(self, source, place=None):
        self.files[os.path.normpath(place or source).lstrip("/")] = Path(source)

    def put_program(self, source, place=None):
        """With the libraries that it is linked with, where the loader looks for them."""
        self.put(source, place)
        self.put_libraries(source)

    def put_libraries(self, program, own=None):
        """Those below `own` come with it, and are found relative to it."""
        for path in map(os.path.normpath, re.findall(r"(/\S+) \(0x", run("ldd", program).stdout)):
            if not own or not Path(path).is_relative_to(own):
                self.put(Path(path).resolve(), path)

    def put_tree(self, folder, place=None, without=()):
        """As the folder is, with links followed; `without` are names of folders."""
        place = str(place or folder)
        for path, folders, names in os.walk(Path(folder).resolve(), followlinks=True):
            folders[:] = [name for name in folders if name not in without]
            below = os.path.relpath(path, Path(folder).resolve())
            for name in names:
                self.put(Path(path, name).resolve(), os.path.normpath(f"{place}/{below}/{name}"))

    def link(self, place, target):
        self.links[place.lstrip("/")] = target

    def write(self, stream):
        """As an archive. Folders come first: what makes those that are missing gives them no rights."""
        places = [*self.files, *self.links]
        folders = {str(parent) for place in places for parent in Path(place).parents if str(parent) != "."}
        with tarfile.open(fileobj=stream, mode="w|") as archive:
            for folder in [*sorted(folders), "tmp", "dev", "proc", "sys"]:
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
                archive.addfile(entry)
            for place, source in self.files.items():
                entry = tarfile.TarInfo(place)
                entry.size = source.stat().st_size
                entry.mode = 0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644
                with source.open("rb") as content:
                    archive.addfile(entry, content)
            for place, target in self.links.items():
                entry = tarfile.TarInfo(place)
                entry.type, entry.linkname = tarfile.SYMTYPE, target
                archive.addfile(entry, io.BytesIO())

    def load(self, docker, name):
        changes = [word for setting in ["PATH=/usr/local/bin:/usr/bin:/bin", *self.environment] for word in ("-c", f"ENV {setting}")]
        command = ["docker", "import", *changes, "-", name]
        process = subprocess.Popen(command, env=docker.environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Docker's own word is better than that of the pipe that it closed.
        with contextlib.suppress(BrokenPipeError):
            self.write(process.stdin)
        _, said = process.communicate(timeout=120)
        if process.returncode != 0:
            raise Failed(f"docker import {name}: {said.decode(errors='replace')}")


def node():
    """The newest that `.ci/install node` brought, else the machine's."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    brought = target / "node-versions/24/node_modules/node/bin/node"
    base = Base()
    base.put_program((brought if brought.exists() else needed("node")).resolve(), "usr/local/bin/node")
    return base


def python():
    """The system's own: a virtual environment, or a version manager's wrapper, is no program that can be copied."""
    program = Path("/usr/bin/python3")
    if not program.exists():
        raise Skipped("/usr/bin/python3 is not installed")
    program = program.resolve()
    base = Base()
    base.put_program(program)
    answer = run(program, "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))")
    library = Path(answer.stdout.strip() or sysconfig.get_path("stdlib"))
    base.put_tree(library, without=NOT_OF_PYTHON)
    for module in (library / "lib-dynload").glob("*.so"):
        base.put_libraries(module)
    base.link("usr/local/bin/python3", str(program))
    base.link("usr/local/bin/python", str(program))
    return base


def go():
    program = needed("go")
    root = Path(run(program, "env", "GOROOT").stdout.strip())
    base = Base([f"GOROOT={root}", "GOTOOLCHAIN=local", "GOFLAGS=-mod=mod", "GOCACHE=/tmp/gocache", "GOPATH=/tmp/go"])
    base.put_program(root / "bin/go", "usr/local/bin/go")
    for folder in ("pkg/include", "pkg/tool", "src", "lib/time"):
        base.put_tree(root / folder, without=NOT_OF_GO)
    for name in ("VERSION", "go.env"):
        if (root / name).exists():
            base.put((root / name).resolve(), root / name)
    return base


def rust():
    """With the linker that comes with Rust: there is no C compiler. What `-alpine` has as its host is a target here."""
    needed("cargo")
    root = Path(run("rustc", "--print", "sysroot", cwd=REPOSITORY).stdout.strip())
    library = root / "lib/rustlib" / MUSL
    if not library.exists():
        raise Skipped(f"Rust's target {MUSL} is not installed")
    host = re.search(r"^host: (.+)$", run("rustc", "-vV", cwd=REPOSITORY).stdout, re.M)[1]
    base = Base([f"CARGO_BUILD_TARGET={MUSL}", "CARGO_HOME=/tmp/cargo", "RUSTFLAGS='-Clinker=rust-lld -Clink-self-contained=yes'"])
    programs = ["bin/cargo", "bin/rustc", f"lib/rustlib/{host}/bin/rust-lld"]
    for name in [*programs, *(f"lib/{path.name}" for path in (root / "lib").glob("*.so*"))]:
        base.put((root / name).resolve(), f"usr/local/{name}")
        base.put_libraries(root / name, own=root)
    base.put_tree(library, f"usr/local/lib/rustlib/{MUSL}")
    return base


def needed(tool):
    found = shutil.which(tool)
    if not found:
        raise Skipped(f"{tool} is not installed")
    return Path(found)


# The name of the first image in each example's Dockerfile, and what stands for it.
MAKERS = {"node": node, "python": python, "go": go, "rust": rust}
