"""Groups and modes that fit the GPUs: which models share a server, and how their servers run.

What runs stays as it is while nothing of the wish speaks against it: a group keeps its slots and its type of cache,
whatever nodes there are, and a newcomer takes it as it runs. Only when a model would be left out otherwise are slots of
running groups given up, or caches quantised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ollama_fleet.api.group import GroupModel
from ollama_fleet.planning.abilities import effective_slots
from ollama_fleet.planning.footprints import Mode
from ollama_fleet.planning.grouping import assign, clash
from ollama_fleet.planning.packing import Item, Packing, levels_of, load_order, pack
from ollama_fleet.planning.request import PreviousGroup
from ollama_fleet.planning.rooms import House, Trial, Wish
from ollama_fleet.planning.running import Running

MOVE_BUDGET = 1
"""Running models that a change may move to another server."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """One group."""

    models: tuple[GroupModel, ...]
    """With the slots that each really has."""
    mode: Mode
    planned: Mapping[str, int] = field(default_factory=dict)
    """Upper bound of GPU memory by model, in bytes; empty where nothing was sized."""
    slots: Mapping[str, int] = field(default_factory=dict)
    """The most slots by type of cache, where that was looked at: 0 for one with which the group does not fit."""
    sized: Literal["now", "before", "never"] = "now"
    """When it was held against the GPUs that there are."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """All groups, and the models for which there is no room."""

    groups: Mapping[str, Fitted]
    left_out: tuple[str, ...] = ()


def as_it_runs(house: House) -> Fitting | None:
    """The groups that run, if the wish asks for nothing that they do not have: then nobody looks at nodes."""
    running = house.running
    settled = frozenset(name for group in running.values() for name in group.settled)
    if settled != frozenset(house.wish.wants):
        return None
    groups = {name: runs for name, runs in running.items() if runs.settled}
    return Fitting({name: _fitted(house.on(r.product), r.settled, r.mode, _before(r)) for name, r in groups.items()})


def unsized(house: House, previous: Sequence[PreviousGroup], *, slots: int) -> Fitting:
    """Groups where nothing says how large a GPU is: only models that would evict each other are kept apart.

    ``slots`` stands for as many as fit.
    """
    wish, groups = house.wish, {}
    for name, members in assign((want.model for want in wish.wants.values()), previous).items():
        names, runs = frozenset(model.name for model in members), house.running.get(name)
        new = names - runs.settled if runs else names
        asks = wish.parallel or max((wish.slots[one] or slots for one in new), default=0)
        before = runs.mode if runs else Mode(1, wish.options.kv_type, bool(wish.spread))
        mode = Mode(max(asks, before.parallel), before.kv_type, before.spread)
        # What was sized once counts for the gate, though nobody knows the GPUs any more.
        place = house.on(runs.product) if runs else house
        groups[name] = _fitted(place, names, mode, _before(runs) if runs else "never")
    return Fitting(groups)


def left_out_at_best(house: House, *, servers: int) -> frozenset[str]:
    """Who has no place even with the fewest slots and the finest cache, in a plan from nothing."""
    trial = Trial(house, house.wish.parallel or 1, house.caches(())[-1], bool(house.wish.spread))
    packing = pack(_items(house, ()), trial, servers=servers, thorough=False)
    return frozenset(item.name for item in packing.left_out)


def fit(house: House, previous: Sequence[PreviousGroup], *, servers: int, waiting: frozenset[str]) -> Fitting:
    """As many slots as are wished for if all models fit with them, else as many as let most models fit.

    For models that have been ``waiting`` nothing that runs is touched: what could be done for them has been done.
    """
    settled = {name for runs in house.running.values() for name in runs.settled}
    search = _Search(house, _items(house, previous), servers, patient=house.wish.wants.keys() - settled <= waiting)
    packing, trial = search.best()
    groups = {
        name: search.settle(trial, name, frozenset(item.name for item in items))
        for name, items in packing.groups.items()
    }
    return Fitting(groups, tuple(item.name for item in packing.left_out))


@dataclass(slots=True)
class _Search:
    house: House
    items: Sequence[Item]
    servers: int
    patient: bool
    """Only the room that is left counts."""

    def best(self) -> tuple[Packing, Trial]:
        """The first way in which everybody has a place; else the one with the most important models in memory."""
        found: list[tuple[Packing, Trial]] = []
        for trial in self._trials():
            outcome = self._widest(trial)
            if not outcome[0].left_out:
                return outcome
            found.append(outcome)
        levels = levels_of(self.items)
        best = max(found, key=lambda one: one[0].worth(levels))
        if self.patient:
            return best
        least = _with(best[1], self._least, gentle=False)
        thorough = pack(self.items, least, servers=self.servers, move_budget=MOVE_BUDGET)
        return (thorough, least) if thorough.worth(levels) > best[0].worth(levels) else best

    def settle(self, trial: Trial, name: str, names: frozenset[str]) -> Fitted:
        """The group with the most slots, up to its own widest wish, that its own models allow."""
        house, wish, runs = self.house, self.house.wish, self.house.running.get(name)
        mode = trial.mode(name, names)
        assert mode is not None
        if runs is not None and names <= runs.settled:
            return _fitted(house.on(runs.product), names, mode, _before(runs))
        if runs is not None and mode == runs.mode:
            return _fitted(house, names, mode)
        most, known = trial.most(name, names), mode
        enough = min(most, wish.needed(names))
        slots: dict[str, int] = {}
        kept = runs is not None and runs.mode.kv_type != wish.options.kv_type
        for kv_type in (mode.kv_type,) if kept else house.caches(names):
            slots[kv_type] = self._most_slots(names, Mode(most, kv_type, mode.spread))
            if slots[kv_type] >= enough:
                break
        kv_type = max(slots, key=lambda kind: (slots[kind] >= enough, min(slots[kind], most)), default=mode.kv_type)
        chosen = Mode(slots[kv_type], kv_type, mode.spread) if slots[kv_type] else known
        return replace(_fitted(house, names, chosen), slots=slots)

    def _trials(self) -> Iterator[Trial]:
        """Ways to run servers, from what changes least to what changes most."""
        house, wish = self.house, self.house.wish
        spreads = (wish.spread or False,) if wish.spread is not None or house.server.gpus < 2 else (False, True)
        caches = house.caches(())
        top = wish.top(wish.wants)
        for gentle in (True, False) if house.running and not self.patient else (True,):
            for kv_type in caches:
                for spread in spreads:
                    yield Trial(house, top, kv_type, spread, gentle)

    @property
    def _least(self) -> int:
        return self.house.wish.parallel or 1

    def _widest(self, trial: Trial) -> tuple[Packing, Trial]:
        """With the most slots with which as many models find a place as with the fewest."""
        levels = levels_of(self.items)
        widest = self._pack(trial)
        if not widest.left_out or trial.parallel == self._least:
            return widest, trial
        narrow = _with(trial, self._least)
        packing = self._pack(narrow)
        if packing.worth(levels) <= widest.worth(levels):
            return widest, trial
        goal, best = packing.worth(levels), (packing, narrow)
        low, high = self._least, trial.parallel
        while high - low > 1:
            middle = _with(trial, (low + high) // 2)
            packing = self._pack(middle)
            if packing.worth(levels) >= goal:
                low, best = middle.parallel, (packing, middle)
            else:
                high = middle.parallel
        return best

    def _pack(self, trial: Trial) -> Packing:
        return pack(self.items, trial, servers=self.servers, thorough=False)

    def _most_slots(self, names: frozenset[str], mode: Mode) -> int:
        """Up to those of the mode; 0 where not even the fewest fit."""

        def holds(parallel: int) -> bool:
            return self.house.holds(names, Mode(parallel, mode.kv_type, mode.spread))

        if holds(mode.parallel):
            return mode.parallel
        if not holds(self._least):
            return 0
        low, high = self._least, mode.parallel
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low


def _with(trial: Trial, parallel: int, *, gentle: bool | None = None) -> Trial:
    return Trial(trial.house, parallel, trial.kv_type, trial.spread, trial.gentle if gentle is None else gentle)


def _items(house: House, previous: Sequence[PreviousGroup]) -> list[Item]:
    home = {model.name: group.name for group in previous for model in group.config.models}
    settled = {name for group in house.running.values() for name in group.settled}
    wants, plain = house.wish.wants, Mode(1, house.wish.options.kv_type)
    alike: dict[str | None, list[GroupModel]] = {None: []}
    for want in wants.values():
        for digest in {want.model.manifest_digest, want.model.weights} - {None}:
            alike.setdefault(digest, []).append(want.model)
    return [
        Item(
            name=name,
            size=house.least(name, plain),
            pinned=want.model.residency == "Pinned",
            priority=want.model.priority,
            clashes=frozenset(
                other.name
                for digest in (want.model.manifest_digest, want.model.weights)
                for other in alike[digest]
                if clash(want.model, other)
            ),
            group=home.get(name),
            settled=name in settled,
        )
        for name, want in wants.items()
    ]


def _fitted(
    house: House, names: frozenset[str], mode: Mode, sized: Literal["now", "before", "never"] = "now"
) -> Fitted:
    wish = house.wish
    models = [
        wish.wants[one.name].model.model_copy(update={"parallel": _slots(wish, one.name, mode)})
        for one in load_order(house.footprint(name, mode) for name in names)
    ]
    known = sorted(names & wish.shapes.keys()) if sized != "never" else ()
    planned = {name: house.footprint(name, mode).whole for name in known}
    return Fitted(tuple(models), mode, planned, sized=sized)


def _before(runs: Running) -> Literal["before", "never"]:
    return "before" if runs.sized else "never"


def _slots(wish: Wish, name: str, mode: Mode) -> int:
    """What the sidecar lets through: never more than the server has, or Ollama would queue the rest unseen."""
    wanted = min(wish.slots[name] or mode.parallel, mode.parallel)
    return effective_slots(wish.shapes.get(name), wanted)
