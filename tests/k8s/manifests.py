"""The kustomizations of k8s/ and what they render to: a list of objects, as `kubectl apply -k` would send them."""
import atexit
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "k8s"
# `# Workers: 2 (limits.cpu)` at the head of a kustomization: how many, and which value decides.
PROMISE = re.compile(r"^# Workers: (\d+) \((\S+)\)$", re.MULTILINE)
REMOTE = re.compile(r"https://\S+//k8s/(\S+?)\?ref=\S+")


class Failed(Exception):
    """What a test found."""


class Skipped(Exception):
    """What a test would need here."""


def expect(what, found, wanted):
    if found != wanted:
        raise Failed(f"{what}: {found!r}, not {wanted!r}")


def opening_comments():
    """Every file says at its head why it is there."""
    for path in sorted(FOLDER.rglob("*.yaml")):
        if not path.read_text().startswith("# "):
            raise Failed(f"{path.relative_to(REPOSITORY)} does not open with a comment")


class Kustomization:
    def __init__(self, name, folder, kubectl, source):
        self.name, self.folder, self.kubectl, self.source = name, folder, kubectl, source
        self.text = None

    def render(self):
        """Anew at each call, for whoever wants to change it."""
        if self.text is None:
            # Whoever runs this may have preferences of his own.
            env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBERC": "off"}
            answer = subprocess.run([self.kubectl, "kustomize", self.folder], capture_output=True, text=True, timeout=60, env=env)
            if answer.returncode != 0 or answer.stderr:
                raise Failed(f"kubectl kustomize {self.folder}: {answer.stderr}")
            self.text = answer.stdout
        objects = list(yaml.safe_load_all(self.text))
        if not objects:
            raise Failed("nothing was rendered")
        return objects

    def promise(self):
        """How many workers its head promises, and by which value."""
        found = PROMISE.findall(self.source.read_text())
        expect(f"lines `# Workers: N (VALUE)` in {self.source.relative_to(REPOSITORY)}", len(found), 1)
        return int(found[0][0]), found[0][1]


class Kustomizations:
    """The base, each overlay, each of them with each component, and what the README shows."""

    def __init__(self, tools):
        self.kubectl = tools / "venv/bin/kubectl"
        self.scratch = Path(tempfile.mkdtemp(prefix="k8s-"))
        atexit.register(shutil.rmtree, self.scratch, ignore_errors=True)
        plain = [FOLDER / "base", *sorted(path for path in (FOLDER / "overlays").iterdir() if path.is_dir())]
        components = sorted(path for path in (FOLDER / "components").iterdir() if path.is_dir())
        self.plain = [self.of(path.name, path, path) for path in plain]
        self.mixed = [self.mix(path, component) for path in plain for component in components]
        self.shown = self.from_readme()

    def __iter__(self):
        return iter([*self.plain, *self.mixed, self.shown])

    def promising(self):
        return [*self.plain, self.shown]

    def named(self, name):
        return next(kustomization for kustomization in self if kustomization.name == name)

    def rules(self):
        """What the alerts say to Prometheus."""
        return the(self.named("base+alerts").render(), "PrometheusRule")["spec"]

    def of(self, name, folder, source):
        return Kustomization(name, folder, self.kubectl, source / "kustomization.yaml")

    def write(self, name, text):
        folder = self.scratch / name
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(text)
        return folder

    def relative(self, path):
        """kustomize wants no absolute paths."""
        return os.path.relpath(path.resolve(), (self.scratch / "any").resolve())

    def mix(self, path, component):
        name = f"{path.name}+{component.name}"
        text = f"resources: ['{self.relative(path)}']\ncomponents: ['{self.relative(component)}']\n"
        return self.of(name, self.write(name, text), path)

    def from_readme(self):
        """The example of k8s/README.md, with this tree in place of the release that it names."""
        (text,) = re.findall(r"^```yaml\n(.*?)^```$", (FOLDER / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        parts = REMOTE.findall(text)
        expect("remote parts in k8s/README.md", parts, ["overlays/node", "components/monitoring", "components/alerts"])
        text = REMOTE.sub(lambda found: self.relative(FOLDER / found[1]), text)
        return self.of("readme", self.write("readme", text), FOLDER / parts[0])


def the(objects, kind):
    found = [one for one in objects if one["kind"] == kind]
    expect(f"objects of kind {kind}", len(found), 1)
    return found[0]


def pod(objects):
    return the(objects, "Deployment")["spec"]["template"]


def container(objects):
    containers = pod(objects)["spec"]["containers"]
    expect("containers", len(containers), 1)
    return containers[0]
