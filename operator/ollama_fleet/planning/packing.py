"""Which models share a server: as few servers as possible, and as few moves as possible.

Pinned models of a group are in memory at the same time; an OnDemand model only needs room beside them. A model keeps
its group while the group still fits: moving it means loading it anew on another server.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from ollama_fleet.planning.scheduler import Footprint, Seating, ServerShape, seat

_EXCHANGES: Final = 128
"""That are tried when somebody is left out."""
_WAITING: Final = 8


@dataclass(frozen=True, slots=True)
class Item:
    """One model to pack."""

    name: str
    size: int
    """Bytes, for the order and for what a packing is worth: the same whatever a server runs with."""
    pinned: bool = True
    priority: int = 0
    """Higher ones are packed first; the lowest are left out where there is too little room."""
    clashes: frozenset[str] = frozenset()
    """Names of models that must not share its server."""
    group: str | None = None
    """Where it runs now."""
    settled: bool = False
    """It runs there just as it is wished for: whether it fits is not asked again, and to move it costs a load."""


class Room(Protocol):
    """What decides whether models fit a server together."""

    def holds(self, group: str, items: Sequence[Item]) -> bool:
        """Whether a server of the group would hold all of them."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Models by group, and those that found no place."""

    groups: Mapping[str, tuple[Item, ...]]
    left_out: tuple[Item, ...]

    @property
    def moves(self) -> int:
        """How many models leave the group in which they run as they are wished for."""
        return sum(item.settled and item.group != group for group, items in self.groups.items() for item in items)

    @property
    def turned_out(self) -> bool:
        """Whether a model that runs has no place any more."""
        return any(item.group for item in self.left_out)

    def worth(self, levels: Sequence[tuple[bool, int]]) -> tuple[int, ...]:
        """What is better: more bytes in memory of the most important models, then of the next."""
        placed = dict.fromkeys(levels, 0)
        for item in (item for items in self.groups.values() for item in items):
            placed[level(item)] += item.size
        return tuple(placed[one] for one in levels)


def pack(items: Iterable[Item], room: Room, *, servers: int, move_budget: int = 0, thorough: bool = True) -> Packing:
    """Pack into at most ``servers`` groups. Deterministic, whatever the order of ``items``.

    Everybody stays where they are if that leaves nobody out. Otherwise (``thorough``) up to ``move_budget`` models may
    move, and newcomers make way for others, if more of the wish is fulfilled that way.
    """
    ordered = sorted(items, key=_importance)
    stay = _pack(ordered, room, servers=servers, home=lambda item: item.group)
    if not stay.left_out or not thorough:
        return stay
    levels = levels_of(ordered)
    moved = (_relax(ordered, room, servers=servers, movers=movers) for movers in _movers(ordered, move_budget))
    others = [packing for packing in moved if packing.moves <= move_budget and not packing.turned_out]
    best = max((stay, *others), key=lambda packing: (packing.worth(levels), -packing.moves))
    return _exchanged(best, room, levels)


def fits(server: ServerShape, pinned: Iterable[Footprint], guests: Iterable[Footprint] = ()) -> Seating:
    """All Pinned models at once, then each OnDemand model alone beside them; the first misfit, if there is one."""
    loaded = load_order(pinned)
    seating = seat(server, loaded)
    if seating.misfit:
        return seating
    for guest in guests:
        beside = seat(server, [*loaded, guest])
        if beside.misfit:
            return beside
    return seating


def load_order(models: Iterable[Footprint]) -> list[Footprint]:
    """As sidecars load them, by their configuration: the most important first, then the largest.

    The first load may use all that is free, later ones only what Ollama's prediction allows.
    """
    return sorted(models, key=lambda model: (-model.priority, -model.predicted, -model.whole, model.name))


def level(item: Item) -> tuple[bool, int]:
    """Who comes first: Pinned models, then by priority."""
    return (not item.pinned, -item.priority)


def levels_of(items: Iterable[Item]) -> list[tuple[bool, int]]:
    """All levels, the most important first."""
    return sorted({level(item) for item in items})


def number(group: str) -> int:
    """``g3`` is 3."""
    return int(group.removeprefix("g"))


def _importance(item: Item) -> tuple[bool, int, int, str]:
    return (*level(item), -item.size, item.name)


def _pack(ordered: Sequence[Item], room: Room, *, servers: int, home: Callable[[Item], str | None]) -> Packing:
    """Those with a home first, each into it while it fits; the others into the fullest group that takes them."""
    groups: dict[str, list[Item]] = {}
    filled: dict[str, int] = {}
    left_out: list[Item] = []
    taken = {item.group for item in ordered if item.group}
    for item in sorted(ordered, key=lambda item: (home(item) is None, not item.settled, *level(item))):
        for name in _candidates(filled, servers=servers, home=home(item), taken=taken):
            members = groups.get(name, [])
            if item.clashes and not item.clashes.isdisjoint(member.name for member in members):
                continue
            if (item.settled and name == home(item)) or room.holds(name, [*members, item]):
                groups.setdefault(name, []).append(item)
                filled[name] = filled.get(name, 0) + item.size
                break
        else:
            left_out.append(item)
    return Packing({name: tuple(groups[name]) for name in sorted(groups, key=number)}, tuple(left_out))


def _candidates(
    filled: Mapping[str, int], *, servers: int, home: str | None, taken: frozenset[str] | set[str]
) -> Iterator[str]:
    """Its home, then the groups that are there from full to empty, then a new one."""
    if home is not None and (home in filled or len(filled) < servers):
        yield home
    yield from (name for name in sorted(filled, key=lambda name: (-filled[name], number(name))) if name != home)
    if len(filled) < servers:
        # The name of a group that runs is its members', even if they all leave it.
        yield next(name for name in map("g{}".format, itertools.count()) if name not in filled and name not in taken)


def _exchanged(packing: Packing, room: Room, levels: Sequence[tuple[bool, int]]) -> Packing:
    """Take one or two newcomers out of a group for one that was left out, while that is worth more."""
    left = _EXCHANGES
    while left:
        for after in _exchanges(packing, room):
            left -= 1
            if after is not None and after.worth(levels) > packing.worth(levels):
                packing = after
                break
            if not left:
                break
        else:
            break
    return packing


def _exchanges(packing: Packing, room: Room) -> Iterator[Packing | None]:
    """What becomes of the packing with each exchange; None where the one who enters does not fit even so."""
    for entering in packing.left_out:
        for name, members in packing.groups.items():
            movable = [item for item in members if item.group is None]
            for leaving in (*itertools.combinations(movable, 1), *itertools.combinations(movable, 2)):
                staying = [item for item in members if item not in leaving]
                fits_in = _meets(entering, staying, room, name)
                yield _with(packing, name, (*staying, entering), leaving, room) if fits_in else None


def _with(packing: Packing, name: str, members: tuple[Item, ...], leaving: Sequence[Item], room: Room) -> Packing:
    """The packing with another group: who left goes elsewhere, and others who wait come in, where there is room."""
    groups = {**packing.groups, name: members}
    waiting = [item for item in packing.left_out if item not in members]
    left_out = []
    for item in leaving:
        home = next((group for group, found in groups.items() if _meets(item, found, room, group)), None)
        if home is None:
            left_out.append(item)
        else:
            groups[home] = (*groups[home], item)
    for item in waiting:
        # Only a few: a long list would be asked again with every exchange.
        if len(left_out) < _WAITING and _meets(item, groups[name], room, name):
            groups[name] = (*groups[name], item)
        else:
            left_out.append(item)
    return Packing(groups, tuple(sorted(left_out, key=_importance)))


def _meets(item: Item, members: Sequence[Item], room: Room, group: str) -> bool:
    return item.clashes.isdisjoint(member.name for member in members) and room.holds(group, [*members, item])


def _movers(ordered: Sequence[Item], budget: int) -> Iterator[frozenset[str]]:
    """Sets of models to uproot, from few to many: those that run and take least to load anew."""
    running = sorted((item for item in ordered if item.settled), key=lambda item: (item.size, item.name))
    for item in running if budget else ():
        yield frozenset({item.name})
    for count in range(2, min(budget, len(running)) + 1):
        yield frozenset(item.name for item in running[:count])
        yield frozenset(item.name for item in running[-count:])


def _relax(ordered: Sequence[Item], room: Room, *, servers: int, movers: frozenset[str]) -> Packing:
    return _pack(ordered, room, servers=servers, home=lambda item: None if item.name in movers else item.group)
