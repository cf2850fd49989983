"""Which models share a server: as few servers as possible, and as few moves as possible.

Pinned models of a group are in memory at the same time; an OnDemand model only needs room beside them. A model keeps
its group while the group still fits: moving it means loading it anew on another server.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ollama_fleet.planning.scheduler import Footprint, Seating, ServerShape, seat


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
    if not stay.left_out or move_budget == 0:
        return stay
    moved = (_relax(ordered, server, servers=servers, movers=movers) for movers in _movers(ordered, move_budget))
    allowed = (packing for packing in moved if packing.moves <= move_budget)
    return max((stay, *allowed), key=lambda packing: (_value(packing), -packing.moves))


def fits(server: ServerShape, items: Sequence[Item]) -> Seating:
    """All Pinned models at once, then each OnDemand model alone beside them; the first misfit, if there is one."""
    pinned = [item.footprint for item in items if item.pinned]
    seating = seat(server, _load_order(pinned))
    if seating.misfit:
        return seating
    for item in items:
        if not item.pinned:
            beside = seat(server, [*_load_order(pinned), item.footprint])
            if beside.misfit:
                return beside
    return seating


def _load_order(models: Iterable[Footprint]) -> list[Footprint]:
    """Largest first: the first load may use all that is free, later ones only what Ollama's prediction allows."""
    return sorted(models, key=lambda model: (-model.predicted, -model.whole, model.name))


def _importance(item: Item) -> tuple[bool, int, int, str]:
    return (not item.pinned, -item.priority, -item.footprint.whole, item.name)


def _pack(ordered: Sequence[Item], server: ServerShape, *, servers: int, home: Callable[[Item], str | None]) -> Packing:
    """Those with a home first, each into it while it fits; the others into the fullest group that takes them."""
    groups: dict[str, list[Item]] = {}
    left_out: list[LeftOut] = []
    for item in sorted(ordered, key=lambda item: (home(item) is None, *_importance(item))):
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
        yield next(name for name in map("g{}".format, range(len(groups) + 1)) if name not in groups and name != home)


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


def _value(packing: Packing) -> tuple[int, int]:
    """What is better: fewer Pinned models left out, weighed by their priority, then more bytes in memory."""
    missing = sum(1 + max(0, left.item.priority) for left in packing.left_out if left.item.pinned)
    return (-missing, packing.packed)


def number(group: str) -> int:
    """``g3`` is 3."""
    return int(group.removeprefix("g"))
