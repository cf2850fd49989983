"""Which models share a server: as few servers as possible, and as few moves as possible.

Pinned models of a group are in memory at the same time; an OnDemand model only needs room beside them. A model keeps
its group while the group still fits: moving it means loading it anew on another server.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ollama_fleet.planning.scheduler import Footprint, Seating, ServerShape, seat

_TRIES: Final = 64
"""Other orders that are tried when somebody is left out."""


@dataclass(frozen=True, slots=True)
class Item:
    """One model to pack."""

    footprint: Footprint
    pinned: bool = True
    priority: int = 0
    """Higher ones are packed first; the lowest are left out where there is too little room."""
    clashes: frozenset[str] = frozenset()
    """Names of models that must not share its server."""
    group: str | None = None
    """Where it runs now."""

    @property
    def name(self) -> str:
        """The served name."""
        return self.footprint.name


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A model for which there is no server."""

    item: Item
    needed: int
    """Bytes that it wants on a GPU."""
    free: int
    """Bytes on the GPU that came closest."""
    evicts: bool = False
    """It would fit, but Ollama's scheduler would evict another model for it."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Models by group, and those that found no place."""

    groups: Mapping[str, tuple[Item, ...]]
    left_out: tuple[LeftOut, ...]

    @property
    def moves(self) -> int:
        """How many models leave the group in which they run."""
        return sum(item.group not in {None, group} for group, items in self.groups.items() for item in items)

    @property
    def turned_out(self) -> bool:
        """Whether a model that runs has no place any more."""
        return any(left.item.group for left in self.left_out)

    @property
    def packed(self) -> int:
        """Bytes of all Pinned models that have a place."""
        return sum(item.footprint.whole for items in self.groups.values() for item in items if item.pinned)


def pack(items: Iterable[Item], server: ServerShape, *, servers: int, move_budget: int = 0) -> Packing:
    """Pack into at most ``servers`` groups. Deterministic, whatever the order of ``items``.

    Everybody stays where they are if that leaves nobody out. Otherwise up to ``move_budget`` models may move, if
    more of the wish is fulfilled that way.
    """
    ordered = sorted(items, key=_importance)
    stay = _pack(ordered, server, servers=servers, home=lambda item: item.group)
    if not stay.left_out:
        return stay
    levels = sorted({(not item.pinned, -item.priority) for item in ordered})
    others = [_pack(order, server, servers=servers, home=lambda item: item.group) for order in _orders(ordered)]
    moved = (_relax(ordered, server, servers=servers, movers=movers) for movers in _movers(ordered, move_budget))
    others += [packing for packing in moved if packing.moves <= move_budget and not packing.turned_out]
    return max((stay, *others), key=lambda packing: (_value(packing, levels), -packing.moves))


def fits(server: ServerShape, items: Sequence[Item]) -> Seating:
    """All Pinned models at once, then each OnDemand model alone beside them; the first misfit, if there is one."""
    pinned = [item.footprint for item in items if item.pinned]
    seating = seat(server, load_order(pinned))
    if seating.misfit:
        return seating
    for item in items:
        if not item.pinned:
            beside = seat(server, [*load_order(pinned), item.footprint])
            if beside.misfit:
                return beside
    return seating


def load_order(models: Iterable[Footprint]) -> list[Footprint]:
    """Largest first: the first load may use all that is free, later ones only what Ollama's prediction allows."""
    return sorted(models, key=lambda model: (-model.predicted, -model.whole, model.name))


def _level(item: Item) -> tuple[bool, int]:
    return (not item.pinned, -item.priority)


def _importance(item: Item) -> tuple[bool, int, int, str]:
    return (*_level(item), -item.footprint.whole, item.name)


def _orders(ordered: Sequence[Item]) -> Iterator[list[Item]]:
    """Largest first is not always best: other orders, with some of the newcomers at the head of their level."""
    newcomers = [item for item in ordered if item.group is None]
    heads = itertools.chain(*(itertools.combinations(newcomers, count) for count in (1, 2, 3)))
    for head in itertools.islice(heads, _TRIES):
        rest = [item for item in ordered if item not in head]
        # Sorting keeps equal ones in their order.
        yield sorted([*head, *rest], key=_level)


def _pack(ordered: Sequence[Item], server: ServerShape, *, servers: int, home: Callable[[Item], str | None]) -> Packing:
    """Those with a home first, each into it while it fits; the others into the fullest group that takes them."""
    groups: dict[str, list[Item]] = {}
    left_out: list[LeftOut] = []
    for item in sorted(ordered, key=lambda item: (home(item) is None, *_level(item))):
        closest: LeftOut | None = None
        for name in _candidates(groups, servers=servers, home=home(item)):
            members = groups.get(name, [])
            if item.clashes & {member.name for member in members}:
                continue
            seating = fits(server, [*members, item])
            if seating.misfit is None:
                groups.setdefault(name, []).append(item)
                break
            misfit = seating.misfit
            if closest is None or misfit.needed - misfit.free < closest.needed - closest.free:
                closest = LeftOut(item, misfit.needed, misfit.free, misfit.evicts)
        else:
            left_out.append(closest or LeftOut(item, item.footprint.whole, 0))
    return Packing({name: tuple(groups[name]) for name in sorted(groups, key=number)}, tuple(left_out))


def _candidates(groups: Mapping[str, Sequence[Item]], *, servers: int, home: str | None) -> Iterator[str]:
    """Its home, then the groups that are there from full to empty, then a new one."""
    if home is not None and (home in groups or len(groups) < servers):
        yield home
    filled = {name: sum(member.footprint.whole for member in members) for name, members in groups.items()}
    yield from (name for name in sorted(groups, key=lambda name: (-filled[name], number(name))) if name != home)
    if len(groups) < servers:
        yield next(name for name in map("g{}".format, range(len(groups) + 2)) if name not in groups and name != home)


def _movers(ordered: Sequence[Item], budget: int) -> Iterator[frozenset[str]]:
    """Sets of models to uproot, from few to many: those that run and take least to load anew."""
    running = sorted((item for item in ordered if item.group), key=lambda item: (item.footprint.whole, item.name))
    for item in running:
        yield frozenset({item.name})
    for count in range(2, min(budget, len(running)) + 1):
        yield frozenset(item.name for item in running[:count])
        yield frozenset(item.name for item in running[-count:])


def _relax(ordered: Sequence[Item], server: ServerShape, *, servers: int, movers: frozenset[str]) -> Packing:
    return _pack(ordered, server, servers=servers, home=lambda item: None if item.name in movers else item.group)


def _value(packing: Packing, levels: Sequence[tuple[bool, int]]) -> tuple[int, ...]:
    """What is better: more bytes in memory of the most important models, then of the next."""
    placed = dict.fromkeys(levels, 0)
    for item in (item for items in packing.groups.values() for item in items):
        placed[_level(item)] += item.footprint.whole
    return tuple(placed[level] for level in levels)


def number(group: str) -> int:
    """``g3`` is 3."""
    return int(group.removeprefix("g"))
