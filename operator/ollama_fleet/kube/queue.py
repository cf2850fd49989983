"""The keyed work queue."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum

from ollama_fleet.kube.kinds import Kind


@dataclass(frozen=True, slots=True)
class Key:
    """What a reconcile works on."""

    kind: Kind
    namespace: str
    name: str


class Priority(IntEnum):
    """Lower is sooner."""

    NORMAL = 0
    LOW = 1


class WorkQueue:
    """client-go's semantics: a key waits once, is never in two hands, and is done again if touched meanwhile."""

    def add(self, key: Key, *, priority: Priority = Priority.NORMAL) -> None:
        """Now."""
        raise NotImplementedError

    def add_after(self, key: Key, delay: float, *, priority: Priority = Priority.NORMAL) -> None:
        """In ``delay`` seconds; of several delays the earliest wins."""
        raise NotImplementedError

    def retry(self, key: Key, *, at_least: float = 0.0) -> float:
        """After the key's own back-off (1 s doubling to 5 min, jittered) and the global limit; returns seconds."""
        raise NotImplementedError

    def forget(self, key: Key) -> None:
        """The key worked: its next retry starts at 1 s again."""
        raise NotImplementedError


Reconcile = Callable[[Key], Awaitable[float | None]]
"""Returns seconds after which to come back, or None."""


async def run_workers(queue: WorkQueue, reconcile: Reconcile, n: int) -> None:
    """Until cancelled."""
    raise NotImplementedError
