"""How kstatus reads an object of a kind that it does not know.

The rules of kubernetes-sigs/cli-utils, pkg/kstatus/status: ``checkGenericProperties`` (generic.go), then
``checkReadyCondition`` (status.go, util.go). Flux's ``wait``, ``helm --wait`` and ``kpt`` compute this.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class KStatus(StrEnum):
    """What is computed."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"


def compute(document: Mapping[str, Any]) -> KStatus:
    """The status of a custom resource."""
    metadata, status = document["metadata"], document.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return KStatus.TERMINATING
    if "generation" in metadata and status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return KStatus.IN_PROGRESS
    conditions = status.get("conditions") or ()
    # In the order of the list: the first that holds decides.
    for condition in conditions:
        if condition["status"] == "True" and condition["type"] == "Reconciling":
            return KStatus.IN_PROGRESS
        if condition["status"] == "True" and condition["type"] == "Stalled":
            return KStatus.FAILED
    ready = next((condition["status"] for condition in conditions if condition["type"] == "Ready"), None)
    return KStatus.CURRENT if ready in {"True", None} else KStatus.IN_PROGRESS
