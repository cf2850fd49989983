"""Does a rollout lack the room for a new server beside the old ones? Pure.

Only then may an old server go first. A new one that no node would ever take (a selector that matches nothing, more
cores than any node has) must not cost a server that works.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from ollama_fleet.planning.quantities import parse_quantity

Pod = Mapping[str, Any]

PATIENCE_SECONDS: Final = 10.0
"""How long a new server may wait for a place before an old one makes room; the status says so meanwhile."""

_OTHER_OBSTACLES: Final = ("didn't match", "untolerated taint", "unschedulable", "volume", "Too many pods")


def lacking(pods: Iterable[Pod], *, now: datetime) -> bool:
    """Whether a pod of the group waits for room that one of its placed pods would leave."""
    known = list(pods)
    placed = [requests(pod) for pod in known if pod["spec"].get("nodeName")]
    return any(
        _waits_for_room(pod, now=now) and any(_fits(requests(pod), into=room) for room in placed) for pod in known
    )


def requests(pod: Pod) -> dict[str, Decimal]:
    """What a pod asks of a node while it runs: its containers and native sidecars."""
    total: dict[str, Decimal] = {}
    sidecars = (c for c in pod["spec"].get("initContainers", ()) if c.get("restartPolicy") == "Always")
    for container in (*pod["spec"].get("containers", ()), *sidecars):
        resources = container.get("resources", {})
        # Extended resources such as GPUs are given as limits; the API server copies limits to requests.
        for name, amount in {**resources.get("limits", {}), **resources.get("requests", {})}.items():
            total[name] = total.get(name, Decimal(0)) + parse_quantity(str(amount))
    return total


def _waits_for_room(pod: Pod, *, now: datetime) -> bool:
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            message = condition.get("message", "").partition("preemption")[0]
            waited = now - datetime.fromisoformat(condition["lastTransitionTime"])
            short = "Insufficient" in message and not any(words in message for words in _OTHER_OBSTACLES)
            return short and waited.total_seconds() >= PATIENCE_SECONDS
    return False


def _fits(wanted: Mapping[str, Decimal], *, into: Mapping[str, Decimal]) -> bool:
    return all(amount <= into.get(name, Decimal(0)) for name, amount in wanted.items())
