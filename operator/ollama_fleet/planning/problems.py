"""Why a wish cannot be planned."""

from dataclasses import dataclass

from ollama_fleet.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the wish as it stands. The last plan stays in force meanwhile."""

    reason: Reason
    message: str
    """One sentence with the field or object at fault and the next step."""
    terminal: bool = True
    """False while it only takes time (a ModelSet being resolved)."""
