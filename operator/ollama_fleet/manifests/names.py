"""How the objects of a group are named, labelled and owned."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_fleet.api import names


@dataclass(frozen=True, slots=True)
class Owner:
    """The OllamaDeployment that the objects belong to."""

    namespace: str
    name: str
    uid: str

    @classmethod
    def of(cls, live: Mapping[str, Any]) -> "Owner":
        """From the object as the API server sends it."""
        metadata = live["metadata"]
        return cls(namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"])


def child_name(owner: Owner, group: str) -> str:
    """Name of every object of a group. The suffix is always there: no two groups can ever meet in one name."""
    return f"{owner.name}-{group}"


def selector(owner: Owner, group: str) -> dict[str, str]:
    """The labels that find the pods of a group; they can never change."""
    return {names.LABEL_DEPLOYMENT: owner.name, names.LABEL_GROUP: group}


def labels(owner: Owner, group: str) -> dict[str, str]:
    """The labels of every object of a group."""
    return {
        names.LABEL_NAME: "ollama",
        names.LABEL_INSTANCE: owner.name,
        names.LABEL_COMPONENT: "server",
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        **selector(owner, group),
    }


def metadata(owner: Owner, group: str, *, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Metadata of an object of a group, owned by the OllamaDeployment."""
    found: dict[str, Any] = {
        "name": child_name(owner, group),
        "namespace": owner.namespace,
        "labels": labels(owner, group),
        "ownerReferences": [
            {
                "apiVersion": names.API_VERSION,
                "kind": "OllamaDeployment",
                "name": owner.name,
                "uid": owner.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if annotations:
        found["annotations"] = dict(annotations)
    return found
