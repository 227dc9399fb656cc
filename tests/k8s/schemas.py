"""Rendered objects against schemas: strictly, so that a field that does not exist is a mistake too.

Kubernetes' own are those of the pip package kubernetes-validate. Those of the Prometheus operator are validators that npm's
@kubernetes-models/prometheus-operator compiled from the operator's sources; operator.mjs runs them.
"""
import json
import subprocess
from pathlib import Path

import kubernetes_validate

from manifests import Failed

# The oldest that knows every field that is used here, and the newest that the package brings.
VERSIONS = ("1.30", "1.37")
OPERATOR = "monitoring.coreos.com/v1"


class Validator:
    def __init__(self, tools):
        self.tools = tools

    def check(self, objects):
        for one in objects:
            if one["apiVersion"] != OPERATOR:
                self.kubernetes(one)
        self.operator([one for one in objects if one["apiVersion"] == OPERATOR])

    def kubernetes(self, one):
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                where = ".".join(map(str, error.path))
                raise Failed(f"{one['kind']} in {version}: {where}: {error.message[:300]}") from None

    def operator(self, objects):
        if not objects:
            return
        script = Path(__file__).with_name("operator.mjs")
        words = ["node", script, self.tools / "node_modules"]
        answer = subprocess.run(words, input=json.dumps(objects), capture_output=True, text=True, timeout=60)
        if answer.returncode != 0:
            raise Failed(answer.stdout or answer.stderr)
