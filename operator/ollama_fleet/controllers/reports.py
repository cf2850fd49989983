"""Reports of the nodes' agents, and how fresh they are by this process's own clock.

Clocks of nodes are never compared: a report is fresh while its counter moves. One that is first seen in a list may be
hours old, so it counts for nothing until it moves. One whose counter went back was overtaken on its way, and counts for
nothing either, unless it goes on counting from there: then an agent was restarted whose clock had been put back.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.kube.informer import Informer
from ollama_fleet.kube.transport import Json

STALE_SECONDS: Final = 90.0
"""Three heartbeats of the agent."""
_LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What one node's agent last said."""

    status: NodeVRAMReportStatus
    fresh: bool


@dataclass(slots=True)
class _Seen:
    status: NodeVRAMReportStatus
    moved_at: float | None = None
    """None: not since this process first saw it."""
    behind: int | None = None
    """The counter of an older report that came last."""


@dataclass(slots=True)
class Reports:
    """Follows the informer; ``changed`` gets the name of a node whose report says something new or goes stale."""

    informer: Informer
    changed: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _stale: set[str] = field(default_factory=set)

    def connect(self) -> None:
        """Begin to follow."""
        self.informer.add_handler(self._take)

    def of(self, node: str) -> Report | None:
        """The report of a node; None where there has never been one: no agent runs there."""
        seen = self._seen.get(node)
        return None if seen is None else Report(seen.status, self._fresh(seen))

    async def watch(self) -> None:
        """Notice reports that stop moving, until cancelled: silence sends no event."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Tell of each node whose report has gone stale since the last look."""
        stale = {node for node, seen in self._seen.items() if not self._fresh(seen)}
        for node in stale - self._stale:
            self.changed(node)
        self._stale = stale

    def _fresh(self, seen: _Seen) -> bool:
        return seen.moved_at is not None and self.clock() - seen.moved_at < STALE_SECONDS

    def _take(self, old: Json | None, new: Json | None) -> None:
        node = (new or old or {})["metadata"]["name"]
        if new is None:
            self._seen.pop(node, None)
            self._stale.discard(node)
            self.changed(node)
            return
        try:
            status = NodeVRAMReportStatus.model_validate(new.get("status", {}))
        except ValidationError:
            # Written by an agent that this operator does not understand: as good as silent.
            return
        before = self._seen.get(node)
        if before is None:
            self._seen[node] = _Seen(status)
            self.changed(node)
        elif _overtaken(status, before):
            before.behind = status.sequence
        elif status.sequence != before.status.sequence:
            was_fresh = self._fresh(before)
            self._seen[node] = _Seen(status, self.clock())
            self._stale.discard(node)
            if not was_fresh or _content(status) != _content(before.status):
                self.changed(node)


def _overtaken(status: NodeVRAMReportStatus, seen: _Seen) -> bool:
    if status.sequence >= seen.status.sequence:
        return False
    return seen.behind is None or status.sequence <= seen.behind


def _content(status: NodeVRAMReportStatus) -> object:
    """What a gate stands on; the counter, free memory and the times at which models expire move all the time."""
    gpus = [
        (gpu.uuid, gpu.healthy, gpu.reason, gpu.pods, [(p.pod, p.used_mebibytes) for p in gpu.processes])
        for gpu in status.gpus
    ]
    models = [(m.pod, m.name, m.digest, m.size, m.size_vram, m.context_length) for m in status.models]
    return (gpus, models, status.heard, [(c.type, c.status, c.reason) for c in status.conditions])
