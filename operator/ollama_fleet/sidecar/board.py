"""The state of the pod as one object: what is known of each model, and everybody who wants to hear of changes."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_fleet.api.group import GroupConfig, GroupModel
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.sidecar.served import Served
from ollama_fleet.sidecar.slots import Slots

_STUCK_LOADS: Final = 2
"""One may have waited behind others. Ollama itself gives up a load that makes no progress, and says so."""


@dataclass(frozen=True, slots=True)
class Warmth:
    """What is known of one model, requests left out."""

    phase: ModelPhase = ModelPhase.PULLING
    digest: str | None = None
    weights: str | None = None
    size: int = 0
    size_vram: int = 0
    context_length: int = 0
    expires_at: str = ""
    load_seconds: float | None = None
    message: str = ""
    ready_once: bool = False
    """Whether it was Warm in this pod: its loss takes the pod out of service, a newcomer's loading does not."""
    abandoned: bool = False
    """A client left before it was in memory: the load ended with it."""


class Board:
    """The pod's state. Belongs to one event loop."""

    def __init__(self) -> None:
        """Nothing is configured yet."""
        self.config: GroupConfig | None = None
        self.applied_hash = ""
        self.served = Served(())
        self.slots: dict[str, Slots] = {}
        """By name; names over the same weights share theirs, as they share a runner of Ollama."""
        self._runners: dict[str, Slots] = {}
        self.warmth: dict[str, Warmth] = {}
        self.leaving: frozenset[str] = frozenset()
        """Models that a new configuration takes out of memory just now."""
        self._removed: frozenset[str] = frozenset()
        """Those of them that do not come back."""
        self.ollama_version: str | None = None
        self.draining = False
        """The pod is about to stop: it should get no new requests."""
        self.closed = False
        """New requests are refused. Later than ``draining``: who sends them has to hear of it first."""
        self.unanswered = 0
        """Loads in a row that Ollama let run out of time without a word."""
        self.answered = False
        """A model was loaded and gave an answer since Ollama started."""
        self.sequence = 0
        self._was_ready = False
        self._changed = asyncio.Event()

    def configure(self, config: GroupConfig, *, weights: Mapping[str, str] | None = None) -> None:
        """Serve what a configuration says. Requests under way keep their slots.

        ``weights`` are the digests of those that are installed, by name.
        """
        self.config, self.leaving, self._removed = config, frozenset(), frozenset()
        self.served = Served(config.models, weights=weights)
        self.warmth = {model.name: self.warmth.get(model.name, Warmth()) for model in config.models}
        wishes: dict[str, int] = {}
        for model in config.models:
            runner = self.served.runner(model)
            wishes[runner] = max(model.parallel, wishes.get(runner, 0))
        self._runners = {name: slots for name, slots in self._runners.items() if name in wishes or slots.in_flight}
        for runner, count in wishes.items():
            self._runners.setdefault(runner, Slots(count)).resize(count)
        self.slots = {model.name: self._runners[self.served.runner(model)] for model in config.models}
        self.touch()

    def leave(self, names: Iterable[str], *, wanted: Iterable[str]) -> None:
        """Models that are to leave memory get no new requests until the configuration of those wanted is in force."""
        self.leaving = frozenset(names)
        self._removed = self.leaving - frozenset(wanted)
        for name in self.leaving:
            self.slots[name].resize(0)

    def reopen(self) -> None:
        """Ollama came back: it was restarted, and the pod is not going away after all."""
        if self.draining:
            self.draining = self.closed = False
            self.touch()

    def update(self, name: str, **changes: Any) -> None:
        """Change what is known of a model."""
        before = self.warmth.get(name)
        if before is None:
            return
        after = replace(before, **changes)
        if after.phase is ModelPhase.WARM:
            after, self.answered = replace(after, ready_once=True, abandoned=False), True
        if after != before:
            self.warmth[name] = after
            self.touch()

    def touch(self) -> None:
        """Something changed."""
        self._was_ready |= self.ready
        self.sequence += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next change."""
        await self._changed.wait()

    @property
    def ready(self) -> bool:
        """Whether the pod should take traffic."""
        if self.config is None or self.ollama_version is None or self.draining or not self.applied_hash:
            return False
        if not self.proved:
            return False
        missing = [known for known in self._pinned if known.phase is not ModelPhase.WARM]
        # A model that joins later must not take down a pod that serves the others.
        return not missing or (self._was_ready and not any(known.ready_once for known in missing))

    @property
    def stuck(self) -> bool:
        """Whether Ollama answers and loads nothing, which a restart may mend, and nobody is served meanwhile."""
        return self.unanswered >= _STUCK_LOADS and not self.ready

    @property
    def proved(self) -> bool:
        """Whether a model was loaded and answered, where no Pinned one has to."""
        return bool(self._pinned) or self.answered

    @property
    def _pinned(self) -> list[Warmth]:
        models = self.config.models if self.config else ()
        staying = (model for model in models if model.name not in self._removed)
        return [self.warmth[model.name] for model in staying if model.residency == "Pinned"]

    def why_not(self) -> str:
        """One line for people: what the pod waits for."""
        if self.draining:
            return "draining"
        if self.ollama_version is None:
            return "Ollama does not answer"
        cold = [f"{name}: {known.phase}" for name, known in self.warmth.items() if known.phase is not ModelPhase.WARM]
        return ", ".join(cold) or "starting"

    def snapshot(self) -> SidecarState:
        """The state as others read it."""
        models = self.config.models if self.config else ()
        return SidecarState(
            sequence=self.sequence,
            config_hash=self.applied_hash,
            ready=self.ready,
            draining=self.draining,
            ollama_up=self.ollama_version is not None,
            ollama_version=self.ollama_version,
            models=tuple(self._models(models)),
        )

    def _models(self, models: Iterable[GroupModel]) -> Iterable[ModelState]:
        for model in models:
            known, slots = self.warmth[model.name], self.slots[model.name]
            yield ModelState(
                name=model.name,
                phase=known.phase,
                digest=known.digest,
                weights=known.weights,
                slots=slots.count,
                in_flight=slots.in_flight,
                waiting=slots.waiting,
                size=known.size,
                size_vram=known.size_vram,
                context_length=known.context_length,
                expires_at=known.expires_at,
                load_seconds=known.load_seconds,
                message=known.message,
            )
