"""The handlers: every event of the two kinds becomes a key on the work queue."""

from collections.abc import Callable
from typing import Any, Final

import kopf

from ollama_fleet.handlers.login import Login
from ollama_fleet.handlers.settings import configure
from ollama_fleet.kube.kinds import MODEL_SET, OLLAMA_DEPLOYMENT, Kind

WATCHED: Final = (OLLAMA_DEPLOYMENT, MODEL_SET)

Enqueue = Callable[[Kind, str, str], None]
"""(kind, namespace, name); called in kopf's thread."""


def build_registry(*, enqueue: Enqueue, login: Login, on_started: Callable[[], object]) -> kopf.OperatorRegistry:
    """All of kopf that is used; none of these handlers makes kopf write."""
    registry = kopf.OperatorRegistry()

    @kopf.on.startup(registry=registry)
    async def startup(settings: kopf.OperatorSettings, **_: Any) -> None:
        configure(settings)

    @kopf.on.startup(registry=registry)
    async def announce(**_: Any) -> None:
        on_started()

    @kopf.on.login(registry=registry)
    async def authenticate(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    for kind in WATCHED:
        _forward(registry, kind, enqueue)
    return registry


def _forward(registry: kopf.OperatorRegistry, kind: Kind, enqueue: Enqueue) -> None:
    group, _, version = kind.api_version.partition("/")

    @kopf.on.event(group, version, kind.plural, registry=registry, id=f"forward-{kind.plural}")
    async def forward(event: kopf.RawEvent, **_: Any) -> None:
        obj = event["object"]
        if is_news(event):
            metadata = obj["metadata"]
            enqueue(kind, metadata["namespace"], metadata["name"])


def is_news(event: kopf.RawEvent) -> bool:
    """False for a change after which the spec is as the operator last saw it.

    Such a change is mostly the operator's own status write; of a foreign one the informer tells.
    """
    if event["type"] != "MODIFIED":
        return True
    obj: Any = event["object"]
    metadata = obj["metadata"]
    if metadata.get("deletionTimestamp"):
        return True
    observed = (obj.get("status") or {}).get("observedGeneration")
    return bool(observed != metadata.get("generation"))
