"""The best packing there is, by a solver of integer programs (HiGHS): what the planner's own is held against.

On servers of one GPU the program says exactly what the planner's simulation of Ollama says, for both generations. On
several GPUs the solver may seat models as it likes, which Ollama's scheduler does not let anybody: an upper bound.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import highspy

from ollama_fleet.planning.packing import Item, fits, level
from ollama_fleet.planning.scheduler import Footprint, ServerShape
from ollama_fleet.planning.versions import Generation

_TRUSTED: Final = 0.8
"""As ``server/sched.go`` of Ollama has it."""
_UNIT: Final = 2**30
"""Bytes are large numbers for a solver."""
_GAP: Final = 1e-4
_GIB: Final = 2**30
_CLASHES: Final = 0.2
_PINNED: Final = 0.75


@dataclass(slots=True)
class Instance:
    """Models of given footprints and servers of one shape; also the room that the planner's packing asks."""

    items: Sequence[Item]
    prints: Mapping[str, Footprint]
    shape: ServerShape
    servers: int
    asked: int = 0
    """Questions to the scheduler's simulation; the same is asked once."""
    _answers: dict[frozenset[str], bool] = field(default_factory=dict)

    def holds(self, group: str, items: Sequence[Item]) -> bool:  # noqa: ARG002 - all groups are alike
        """Whether a server holds all of them."""
        key = frozenset(item.name for item in items)
        if key not in self._answers:
            self.asked += 1
            pinned = [self.prints[item.name] for item in items if item.pinned]
            guests = [self.prints[item.name] for item in items if not item.pinned]
            self._answers[key] = fits(self.shape, pinned, guests).misfit is None
        return self._answers[key]

    def best(self) -> dict[tuple[bool, int], int]:
        """Bytes that the best packing has in memory, by level."""
        return _Program(self).best()


def instances(count: int, *, seed: int, generation: Generation, gpus: int = 1) -> list[Instance]:
    """Four to nine models of 2 to 20 GiB, for up to three servers of 25 GiB per GPU: Pinned and not, of two priorities,
    now and then two that must not share a server.
    """
    generator = random.Random(seed)
    return [_instance(generator, ServerShape(gpus, 25 * _GIB, _GIB, generation)) for _ in range(count)]


def _instance(generator: random.Random, shape: ServerShape) -> Instance:
    items, prints = [], {}
    largest = 20 if shape.gpus == 1 else 34
    apart = frozenset({"m0", "m1"}) if generator.random() < _CLASHES else frozenset()
    for number in range(generator.randint(4, 9)):
        name, size = f"m{number}", int(generator.uniform(2, largest) * _GIB)
        each = size if shape.gpus == 1 else int(1.1 * size / shape.gpus) + _GIB // 2
        prints[name] = Footprint(name, size, each, int(size * generator.uniform(0.8, 1.15)))
        pinned, priority = generator.random() < _PINNED, generator.choice([0, 0, 5])
        clashes = apart - {name} if name in apart else frozenset[str]()
        items.append(Item(name, size, pinned=pinned, priority=priority, clashes=clashes))
    return Instance(items, prints, shape, generator.randint(1, 3))


class _Program:
    def __init__(self, instance: Instance) -> None:
        self.items, self.prints = instance.items, instance.prints
        self.shape, self.servers = instance.shape, instance.servers
        self.solver: Any = highspy.Highs()  # type: ignore[no-untyped-call]
        self.solver.setOptionValue("output_flag", False)
        self.solver.setOptionValue("mip_rel_gap", _GAP)
        gpus, count = range(self.shape.gpus), range(self.servers)
        new = self.solver.addBinary
        # Whole on one GPU, or spread over all of them.
        self.whole = {(i.name, s, g): new() for i in self.items for s in count for g in gpus}
        self.split = {(i.name, s): new() for i in self.items for s in count} if self.shape.gpus > 1 else {}
        for item in self.items:
            self.solver.addConstr(self._placed(item.name) <= 1)
        for server in count:
            self._server(server)

    def _on(self, name: str, server: int) -> Any:
        found = sum(self.whole[name, server, gpu] for gpu in range(self.shape.gpus))
        return found + self.split[name, server] if self.split else found

    def _placed(self, name: str) -> Any:
        return sum(self._on(name, server) for server in range(self.servers))

    def _server(self, server: int) -> None:
        pinned = [item for item in self.items if item.pinned]
        guests: list[Item | None] = [item for item in self.items if not item.pinned]
        room = self.shape.room / _UNIT
        for gpu in range(self.shape.gpus):
            held = sum(
                (self._load(item, server, gpu) for item in pinned), start=0 * self._load(self.items[0], server, gpu)
            )
            for guest in guests or [None]:
                self.solver.addConstr(held + (self._load(guest, server, gpu) if guest else 0) <= room)
        for item in self.items:
            for other in self.items:
                if other.name in item.clashes and item.name < other.name:
                    self.solver.addConstr(self._on(item.name, server) + self._on(other.name, server) <= 1)
        if self.shape.generation is Generation.LLAMA_SERVER and self.shape.gpus == 1:
            self._predictions(server, pinned, [guest for guest in guests if guest])

    def _load(self, item: Item, server: int, gpu: int) -> Any:
        print_ = self.prints[item.name]
        found = (print_.whole / _UNIT) * self.whole[item.name, server, gpu]
        return found + (print_.split / _UNIT) * self.split[item.name, server] if self.split else found

    def _predictions(self, server: int, pinned: Sequence[Item], guests: Sequence[Item]) -> None:
        """Each model but the first needs its prediction within 80 % of what those before it leave free."""
        order = sorted(pinned, key=lambda i: (-self.prints[i.name].predicted, -self.prints[i.name].whole, i.name))
        for index, item in enumerate(order):
            self._after(item, order[:index], server)
        for guest in guests:
            self._after(guest, order, server)

    def _after(self, item: Item, before: Sequence[Item], server: int) -> None:
        if not before:
            return
        usable, predicted = self.shape.usable / _UNIT, self.prints[item.name].predicted / _UNIT
        first = self.solver.addBinary()
        there = sum(self._on(other.name, server) for other in before)
        self.solver.addConstr(there + len(before) * first <= len(before))
        held = sum((self.prints[other.name].whole / _UNIT) * self._on(other.name, server) for other in before)
        # Void unless the item is here and somebody before it is.
        slack = predicted + _TRUSTED * usable
        here = self._on(item.name, server)
        self.solver.addConstr(predicted + _TRUSTED * held - slack * first + slack * here <= _TRUSTED * usable + slack)

    def best(self) -> dict[tuple[bool, int], int]:
        """Bytes in memory by level, the most important level first decided."""
        found = {}
        for one in sorted({level(item) for item in self.items}):
            placed = sum((item.size / _UNIT) * self._placed(item.name) for item in self.items if level(item) == one)
            self.solver.maximize(placed)
            value = self.solver.getObjectiveValue()
            found[one] = round(value * _UNIT)
            self.solver.addConstr(placed >= value * (1 - _GAP))
        return found
