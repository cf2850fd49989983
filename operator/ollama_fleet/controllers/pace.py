"""How often a status may be written whose conditions say the same."""

from dataclasses import dataclass, field
from typing import Final

from ollama_fleet.api.deploymentstatus import OllamaDeploymentStatus
from ollama_fleet.controllers.status import conclusion

HOLD_SECONDS: Final = 2.0
"""So old may reasons, counts and bytes be: a rollout would write several times a second, and most is soon outdated."""


@dataclass(slots=True)
class Pace:
    """Remembers since when the status of each OllamaDeployment differs from what is written."""

    _since: dict[str, float] = field(default_factory=dict)
    """By uid."""

    def holds(self, uid: str, previous: OllamaDeploymentStatus, wanted: OllamaDeploymentStatus, *, now: float) -> bool:
        """Whether ``wanted`` should wait; ``now`` is on a monotonic clock. What tools act on never waits."""
        if wanted == previous or conclusion(wanted) != conclusion(previous):
            held = False
        else:
            held = now - self._since.setdefault(uid, now) < HOLD_SECONDS
        if not held:
            self._since.pop(uid, None)
        return held

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an OllamaDeployment that is gone."""
        self._since.pop(uid, None)
