"""The product's custom resource definitions on a cluster, without kubectl."""

from pathlib import Path
from typing import Any, Final

import yaml

from testbed.controlplane import ControlPlane
from testbed.nodes import api
from testbed.paths import ROOT

_COLLECTION: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SECONDS: Final = 20


def install(plane: ControlPlane, directory: Path = ROOT / "crds") -> None:
    """Create the definitions and wait until the server serves them. Raises NotReady."""
    documents = (yaml.safe_load(path.read_text()) for path in sorted(directory.glob("*.yaml")))
    definitions = [document for document in documents if document.get("kind") == "CustomResourceDefinition"]
    for definition in definitions:
        api.create(plane, _COLLECTION, definition)
    for definition in definitions:
        name = definition["metadata"]["name"]
        api.wait(
            f"{name} is not established",
            lambda path=f"{_COLLECTION}/{name}": _established(api.call(plane, "GET", path)),  # type: ignore[misc]
            seconds=_SECONDS,
            log=plane.processes.log("kube-apiserver"),
        )


def _established(definition: dict[str, Any]) -> bool:
    # The server writes null before the first condition.
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)
