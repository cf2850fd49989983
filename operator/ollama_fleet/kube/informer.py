"""A cache of one kind that follows the API server for ever."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.kinds import Kind

Json = dict[str, Any]
Objects = list[Json]
Handler = Callable[[Json | None, Json | None], None]
Index = Callable[[Json], Iterable[str]]


def without_managed_fields(obj: Json) -> Json:
    """The default projection."""
    raise NotImplementedError


class Informer:
    """List, watch, remember. Objects are read-only: they are shared with every reader."""

    synced: asyncio.Event
    last_activity: float

    def __init__(
        self,
        client: KubeClient,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        project: Callable[[Json], Json] = without_managed_fields,
        indices: Mapping[str, Index] | None = None,
    ) -> None:
        raise NotImplementedError

    def add_handler(self, handler: Handler) -> None:
        """``(old, new)``: (None, new) appeared, (old, new) changed, (old, None) gone. Sync, must not block."""
        raise NotImplementedError

    def get(self, namespace: str | None, name: str) -> Json | None:
        """The object as last seen."""
        raise NotImplementedError

    def list(self, namespace: str | None = None) -> Objects:
        """All objects, or those of one namespace."""
        raise NotImplementedError

    def by_index(self, index: str, value: str) -> Objects:
        """The objects for which the index function gave ``value``."""
        raise NotImplementedError

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        raise NotImplementedError
