"""When an objection closes a gate: not on a single sample, and not for too many servers of a group at once.

Pure but for a clock and what it remembers: since when something speaks against a pod, or nothing does any more. After a
restart of the operator the times start anew, so a gate that is open stays open for some seconds longer.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ollama_fleet.controllers.vram import Objection, Severity

HOLD_SECONDS: Final = 4.0
"""How long an objection stands before an open gate closes: two reports of an agent that sees things change."""
PROVE_SECONDS: Final = 5.0
"""How long nothing must speak against a pod before the gate that a report closed opens again.

A server that has just warmed its models is often ahead of its node's report: a gate that was never open waits for that
report and no longer.
"""
SHARE: Final = 0.25
"""Of a group's servers that may be out of service for soft reasons at once, and at least one."""


class Ruling(Enum):
    """What becomes of a gate."""

    OPEN = "open"
    CLOSE = "close"
    SPARE = "spare"
    """Stays open in spite of the objection, which it names."""
    WAIT = "wait"
    """Stays as it is until it is clear what to do."""


@dataclass(frozen=True, slots=True)
class Case:
    """One pod about which a fresh report speaks."""

    uid: str
    open: bool
    """Whether its gate is."""
    serving: bool
    """Whether it takes traffic."""
    demoted: bool
    """Whether a report closed its gate."""
    objection: Objection | None


@dataclass(frozen=True, slots=True)
class Judgment:
    """The ruling on one pod."""

    ruling: Ruling
    why: str = ""
    """Of a pod that is spared, for people."""
    again: float | None = None
    """Seconds after which it may change by itself."""


@dataclass(slots=True)
class Demotions:
    """Rules on the pods of one group at a time; belongs to one event loop."""

    clock: Callable[[], float] = time.monotonic
    _against: dict[str, float] = field(default_factory=dict)
    """By pod: since when something speaks against it."""
    _clear: dict[str, float] = field(default_factory=dict)
    """By demoted pod: since when nothing does."""
    _new: set[str] = field(default_factory=set)
    """Pods whose gates were closed before a report spoke, and have not been open since."""

    def rule(self, cases: Sequence[Case], *, servers: int, serving: int) -> dict[str, Judgment]:
        """By pod. ``servers`` of the group exist and ``serving`` of them take traffic, with or without a report.

        Those that are only slow come last, for they stay where the others fail. Pods of a kind come in the order of
        their ids: the same cases are ruled alike, whatever their order.
        """
        room = max(1, int(SHARE * servers)) - sum(case.demoted and not case.open for case in cases)
        judged = {}
        for case in sorted(cases, key=lambda case: (_soft(case), case.uid)):
            found = self._rule(case, room=room, others=serving - case.serving)
            judged[case.uid] = found
            if found.ruling is Ruling.CLOSE and case.open:
                room -= 1
                serving -= case.serving
        return judged

    def forget(self, uids: Iterable[str]) -> None:
        """Nothing is known of these pods, or they are gone."""
        for uid in uids:
            self._against.pop(uid, None)
            self._clear.pop(uid, None)
            self._new.discard(uid)

    def _rule(self, case: Case, *, room: int, others: int) -> Judgment:
        if case.open:
            self._new.discard(case.uid)
        elif not case.demoted:
            self._new.add(case.uid)
        if case.objection is None:
            self._against.pop(case.uid, None)
            return self._reopen(case)
        self._clear.pop(case.uid, None)
        since = self._against.setdefault(case.uid, self.clock())
        if not case.open or case.objection.severity is Severity.AT_ONCE:
            return Judgment(Ruling.CLOSE)
        left = since + HOLD_SECONDS - self.clock()
        if left > 0:
            return Judgment(Ruling.WAIT, again=left)
        if _soft(case) and case.serving:
            if not others:
                return Judgment(Ruling.SPARE, "it is the last ready server and keeps serving")
            if room < 1:
                return Judgment(Ruling.SPARE, "it keeps serving until those that are out are back")
        return Judgment(Ruling.CLOSE)

    def _reopen(self, case: Case) -> Judgment:
        if case.open or not case.demoted or case.uid in self._new:
            self._clear.pop(case.uid, None)
            return Judgment(Ruling.OPEN)
        left = self._clear.setdefault(case.uid, self.clock()) + PROVE_SECONDS - self.clock()
        if left > 0:
            return Judgment(Ruling.WAIT, again=left)
        self._clear.pop(case.uid)
        return Judgment(Ruling.OPEN)


def _soft(case: Case) -> bool:
    return case.objection is not None and case.objection.severity is Severity.SOFT
