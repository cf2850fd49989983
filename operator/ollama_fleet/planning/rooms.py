"""Whether models fit a server together, in the mode that its group would run in."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ollama_fleet.planning.abilities import quantises
from ollama_fleet.planning.footprints import Mode, Options, Shapes, footprint, least_of
from ollama_fleet.planning.packing import Item, fits
from ollama_fleet.planning.profiles import MOST_SLOTS
from ollama_fleet.planning.running import Running, Want
from ollama_fleet.planning.scheduler import Footprint, ServerShape

FINER = "q8_0"
"""The quantised cache that is chosen without being asked for: what it costs in quality is hard to measure. Coarser ones
are the user's to choose."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be fitted."""

    wants: Mapping[str, Want]
    """By served name."""
    slots: Mapping[str, int]
    """Slots that each model asks for and can have; 0 for as many as fit."""
    shapes: Shapes
    options: Options
    """With the explicit type of cache, or f16."""
    parallel: int | None = None
    """An explicit number of slots: it is kept, whether it fits or not."""
    kv_type: str | None = None
    """An explicit type of cache."""
    spread: bool | None = None
    """An explicit choice."""

    def top(self, names: Iterable[str]) -> int:
        """The most slots that any of them asks for."""
        return self.parallel or max((self.slots[name] or MOST_SLOTS for name in names), default=1)

    def needed(self, names: Iterable[str]) -> int:
        """Slots below which one of them has fewer than it asks for."""
        return self.parallel or max((self.slots[name] or 1 for name in names), default=1)


@dataclass(slots=True)
class House:
    """All that fits or does not, worked out once: footprints and answers by mode."""

    wish: Wish
    server: ServerShape
    running: Mapping[str, Running]
    _prints: dict[tuple[str, Mode], Footprint] = field(default_factory=dict)
    _answers: dict[tuple[Mode, frozenset[str]], bool] = field(default_factory=dict)
    _least: dict[tuple[str, Mode], int] = field(default_factory=dict)
    _fine: dict[str, bool] = field(default_factory=dict)

    def on(self, product: str) -> "House":
        """The same on GPUs of another product, whose measurements count."""
        if product == self.wish.options.product:
            return self
        return House(replace(self.wish, options=replace(self.wish.options, product=product)), self.server, self.running)

    def caches(self, names: Iterable[str]) -> tuple[str, ...]:
        """Types of cache that a group of these models may have, the better ones first."""
        plain = self.wish.options.kv_type
        if self.wish.kv_type is not None or not self.wish.options.flash_attention:
            return (plain,)
        return (plain, FINER) if all(map(self._quantises, names)) else (plain,)

    def _quantises(self, name: str) -> bool:
        if name not in self._fine:
            shape = self.wish.shapes.get(name)
            generation = self.wish.options.version.generation
            self._fine[name] = shape is None or quantises(shape, FINER, generation)
        return self._fine[name]

    def footprint(self, name: str, mode: Mode) -> Footprint:
        """What one model takes of a server in this mode."""
        # Spreading changes where a model goes, not what it takes.
        key = (name, replace(mode, spread=False) if mode.spread else mode)
        found = self._prints.get(key)
        if found is None:
            options = replace(self.wish.options, kv_type=mode.kv_type)
            want, shape = self.wish.wants[name], self.wish.shapes.get(name)
            found = self._prints[key] = footprint(want.model, shape, options, parallel=mode.parallel)
        return found

    def least(self, name: str, mode: Mode) -> int:
        """What one model takes at the very least."""
        key = (name, replace(mode, spread=False) if mode.spread else mode)
        found = self._least.get(key)
        if found is None:
            options = replace(self.wish.options, kv_type=mode.kv_type)
            want, shape = self.wish.wants[name], self.wish.shapes.get(name)
            found = self._least[key] = least_of(want.model, shape, options, parallel=mode.parallel)
        return found

    def shape(self, mode: Mode) -> ServerShape:
        """A server that runs in this mode."""
        return replace(self.server, spread=mode.spread) if mode.spread != self.server.spread else self.server

    def holds(self, names: frozenset[str], mode: Mode) -> bool:
        """Whether a server in this mode holds all of the models."""
        key = (mode, names)
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self._holds(names, mode)
        return found

    def _holds(self, names: frozenset[str], mode: Mode) -> bool:
        if any(runs.failed_with(names, mode) for runs in self.running.values()):
            return False
        wants = self.wish.wants
        pinned = [name for name in names if wants[name].model.residency == "Pinned"]
        guests = [name for name in names if wants[name].model.residency != "Pinned"]
        if self._plainly_full(pinned, guests, mode):
            return False
        seated = [self.footprint(name, mode) for name in pinned]
        others = [self.footprint(name, mode) for name in guests]
        return fits(self.shape(mode), seated, others).misfit is None

    def _plainly_full(self, pinned: Iterable[str], guests: Iterable[str], mode: Mode) -> bool:
        """Without laying out graphs and playing the scheduler; a measurement may be below any formula."""
        least = sum(self.least(name, mode) for name in pinned)
        least += max((self.least(name, mode) for name in guests), default=0)
        return least > self.server.gpus * self.server.room and not self.wish.options.measured.entries


@dataclass(frozen=True, slots=True)
class Trial:
    """One way to run servers; what of them runs already changes only as far as it has to."""

    house: House
    parallel: int
    """The most slots."""
    kv_type: str
    spread: bool = False
    gentle: bool = True
    """Newcomers take running servers as they are, or not at all."""

    def holds(self, group: str, items: Sequence[Item]) -> bool:
        """Whether a server of the group would hold all of them."""
        names = frozenset(item.name for item in items)
        mode = self.mode(group, names)
        return mode is not None and self.house.holds(names, mode)

    def mode(self, group: str, names: frozenset[str]) -> Mode | None:
        """How a group of these models would run; None where it may not take them."""
        wish, runs = self.house.wish, self.house.running.get(group)
        if runs is None:
            return Mode(min(self.parallel, wish.top(names)), self._cache(names), self.spread)
        if names <= runs.settled:
            return runs.mode
        newcomers = names - runs.members
        # Who asks for more slots than the servers have wants them started anew.
        asks = max(wish.top(names & runs.members - runs.settled), wish.needed(newcomers))
        # Servers on which nobody runs as wished may start anew: their name is worth more than what they run with.
        gentle = self.gentle and not names.isdisjoint(runs.settled)
        if gentle and newcomers:
            return runs.mode if asks <= runs.mode.parallel else None
        if gentle and asks <= runs.mode.parallel:
            return runs.mode
        most = max(runs.mode.parallel, min(wish.top(names), asks))
        kv_type = runs.mode.kv_type if runs.mode.kv_type != wish.options.kv_type else self._cache(names)
        return Mode(min(self.parallel, most), kv_type, self.spread or runs.mode.spread)

    def _cache(self, names: frozenset[str]) -> str:
        return self.kv_type if self.kv_type in self.house.caches(names) else self.house.wish.options.kv_type

    def most(self, group: str, names: frozenset[str]) -> int:
        """Slots that a group of these models could have where memory does not matter."""
        mode = replace(self, parallel=MOST_SLOTS, gentle=False).mode(group, names)
        assert mode is not None
        return mode.parallel
