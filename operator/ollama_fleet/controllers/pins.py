"""Servers that may only go to one node, when that node does not take them: others hold what looked free. Pure."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

_PATIENCE: Final = timedelta(minutes=2)
"""Another node means another pull; what holds the room may be about to go."""
_LEFT_OUT: Final = timedelta(minutes=10)


@dataclass(slots=True)
class Pins:
    """Remembers who waits since when, and which nodes took nobody."""

    _since: dict[str, datetime] = field(default_factory=dict)
    """By uid of the pod. Its own condition tells the time of its scheduling gate too."""
    _until: dict[tuple[str, str], datetime] = field(default_factory=dict)
    """By what is to be placed, and node."""

    def overdue(self, uid: str, *, now: datetime) -> bool:
        """Whether a pod that is seen waiting for its node has done so for too long."""
        return now - self._since.setdefault(uid, now) >= _PATIENCE

    def leave_out(self, server: str, node: str, *, now: datetime) -> None:
        """Send no such server to the node for a while."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[server, node] = now + _LEFT_OUT

    def left_out(self, server: str, *, now: datetime) -> set[str]:
        """The nodes that such a server is not sent to now."""
        return {node for (found, node), until in self._until.items() if found == server and until > now}

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a pod that is gone."""
        self._since.pop(uid, None)
