"""Why a wish cannot be planned."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ollama_fleet.api.reasons import Reason


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change with which a model would fit."""

    text: str
    change: Mapping[str, int | str] = field(default_factory=dict)
    """What to set to what, by the words of the specs; ``servers`` and ``fileBytes`` are no fields of them."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with the wish as it stands. The last plan stays in force meanwhile."""

    reason: Reason
    message: str
    """One sentence with the field or object at fault and the next step."""
    terminal: bool = True
    """False while it only takes time (a ModelSet being resolved)."""
    remedies: tuple[Remedy, ...] = ()
    """The nearest changes that would help, for a model without room."""
