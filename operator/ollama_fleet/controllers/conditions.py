"""Conditions after the kstatus contract: ``Ready``, ``Reconciling`` and ``Stalled``, always all three.

A verdict says what holds now; ``conditions`` turns it into the three conditions and keeps the transition times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import assert_never

from ollama_fleet.api.common import Condition, ConditionStatus
from ollama_fleet.api.reasons import Reason

READY = "Ready"
RECONCILING = "Reconciling"
STALLED = "Stalled"

_MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Done:
    """The wish is fulfilled."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Working:
    """On the way; nobody has to do anything. ``serving`` says that all wanted pods take traffic meanwhile."""

    reason: Reason
    message: str
    serving: bool = False


@dataclass(frozen=True, slots=True)
class Stuck:
    """It will not get better before somebody changes something."""

    reason: Reason
    message: str


Verdict = Done | Working | Stuck


def conditions(verdict: Verdict, *, previous: Sequence[Condition], generation: int, now: datetime) -> list[Condition]:
    """The three conditions for a verdict; ``lastTransitionTime`` moves only where the status flips."""
    known = {condition.type: condition for condition in previous}
    return [
        _condition(kind, status, verdict, previous=known.get(kind), generation=generation, now=now)
        for kind, status in _statuses(verdict)
    ]


def _statuses(verdict: Verdict) -> tuple[tuple[str, ConditionStatus], ...]:
    match verdict:
        case Done():
            return ((READY, "True"), (RECONCILING, "False"), (STALLED, "False"))
        case Working():
            return (
                (READY, "True" if verdict.serving else "False"),
                (RECONCILING, "True"),
                (STALLED, "False"),
            )
        case Stuck():
            return ((READY, "False"), (RECONCILING, "False"), (STALLED, "True"))
        case _:
            assert_never(verdict)


def _condition(
    kind: str,
    status: ConditionStatus,
    verdict: Verdict,
    *,
    previous: Condition | None,
    generation: int,
    now: datetime,
) -> Condition:
    flipped = previous is None or previous.status != status
    since = timestamp(now) if flipped or previous is None else previous.last_transition_time
    return Condition(
        type=kind,
        status=status,
        reason=verdict.reason,
        message=verdict.message[:_MESSAGE_LIMIT],
        last_transition_time=since,
        observed_generation=generation,
    )


def timestamp(now: datetime) -> str:
    """RFC 3339 in UTC with seconds, as Kubernetes writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
