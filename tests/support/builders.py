"""Custom resources for tests: valid as they are, with what a test cares for laid over them."""

from collections.abc import Mapping
from typing import Any

from ollama_fleet.api import names

Document = dict[str, Any]

DIGEST = "sha256:" + "0123456789abcdef" * 4


def ollama_deployment(name: str = "chat", *, namespace: str = "default", **spec: Any) -> Document:
    """A CPU deployment of the ModelSet ``chat``; a ``spec`` value of None removes the field."""
    defaults = {
        "modelSets": [{"name": "chat"}],
        "version": "0.32.3",
        "hardware": {"cpu": {"cores": "1", "memory": "1Gi"}},
    }
    return _document("OllamaDeployment", name, namespace, {**defaults, **spec})


def model_set(name: str = "chat", *models: Mapping[str, Any], namespace: str = "default", **spec: Any) -> Document:
    """A ModelSet of ``models``, by default of one; a ``spec`` value of None removes the field."""
    listed = [dict(model) for model in models] or [{"name": "chat", "model": "tiny:latest"}]
    return _document("ModelSet", name, namespace, {"models": listed, **spec})


def node_vram_report(name: str = "node-1", **spec: Any) -> Document:
    """The report of a node, without a status."""
    return _document("NodeVRAMReport", name, None, spec)


def gpu(count: int = 1, **fields: Any) -> Document:
    """``hardware`` with GPUs."""
    return {"gpu": {"count": count, **fields}}


def _document(kind: str, name: str, namespace: str | None, spec: Mapping[str, Any]) -> Document:
    metadata = {"name": name} if namespace is None else {"name": name, "namespace": namespace}
    kept = {field: value for field, value in spec.items() if value is not None}
    return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": kept}
