"""For a model without room: what it needs, what is free, and the nearest changes with which it would fit.

A change is tried on the servers as they were planned, with the fewest slots and the finest cache that a plan may choose
by itself: what helps there helps the next plan.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from ollama_fleet.api.reasons import Reason
from ollama_fleet.planning.abilities import PLAIN_CACHES, quantises
from ollama_fleet.planning.fitting import Fitting, left_out_at_best
from ollama_fleet.planning.footprints import Mode, footprint
from ollama_fleet.planning.grouping import clash
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.packing import fits, load_order
from ollama_fleet.planning.problems import Problem, Remedy
from ollama_fleet.planning.quantisation import smaller_file
from ollama_fleet.planning.rooms import FINER, House
from ollama_fleet.planning.running import Want
from ollama_fleet.planning.scheduler import Footprint, Misfit, ServerShape, seat
from ollama_fleet.sizing.estimate import GIB, MIB
from ollama_fleet.sizing.shape import ModelShape

_CONTEXT_STEP: Final = 1024
_MOST_GPUS: Final = 16
_OFFERED: Final = 3
"""Changes that a message names."""


@dataclass(slots=True)
class Situation:
    """What was planned without the model."""

    house: House
    fitting: Fitting
    inventory: Inventory
    servers: int
    """That there are GPUs for."""
    _by_count: dict[int, frozenset[str]] = field(default_factory=dict)

    def left_out_with(self, count: int) -> frozenset[str]:
        """Who would be left out with so many GPUs per server."""
        if count not in self._by_count:
            house, server = self.house, replace(self.house.server, gpus=count)
            wish = replace(house.wish, options=replace(house.wish.options, gpus=count))
            servers = max(1, self.servers * house.server.gpus // count)
            self._by_count[count] = left_out_at_best(House(wish, server, {}), servers=servers)
        return self._by_count[count]


def refusal(name: str, situation: Situation) -> Problem:
    """One sentence with the numbers, and the nearest changes that help, if any does."""
    what = _Case(name, situation).numbers()
    offered = tuple(itertools.islice(remedies(name, situation), _OFFERED))
    if not offered:
        message = f"{what}: no smaller context, cache or file would fit; use larger GPUs, or remove a model"
    else:
        others = "".join(f"; so would {one.text}" for one in offered[1:])
        message = f"{what}: {offered[0].text} would make it fit{others}"
    return Problem(Reason.DOES_NOT_FIT, message, remedies=offered)


def remedies(name: str, situation: Situation) -> Iterator[Remedy]:
    """Changes from near to far."""
    case = _Case(name, situation)
    yield from case.fewer_slots()
    yield from case.finer_cache()
    yield from case.smaller_context()
    yield from case.on_demand()
    yield from case.smaller_quantisation()
    yield from case.more_hardware()


@dataclass(slots=True)
class _Case:
    name: str
    situation: Situation

    @property
    def want(self) -> Want:
        return self.situation.house.wish.wants[self.name]

    @property
    def shape(self) -> ModelShape | None:
        return self.situation.house.wish.shapes.get(self.name)

    def numbers(self) -> str:
        house, name = self.situation.house, self.name
        mode = Mode(house.wish.parallel or 1, house.wish.options.kv_type, bool(house.wish.spread))
        wanted = house.footprint(name, mode)
        if any(name in runs.starved for runs in house.running.values()):
            return (
                f"{name} found too little memory on every server though {amount(wanted.whole)} of a GPU are planned "
                "for it: something else uses the GPU, or it takes more than was estimated"
            )
        context = self.want.model.context_length
        load = f"with {context} tokens of context and {mode.parallel} slot{'s' if mode.parallel > 1 else ''}"
        closest = min(
            (misfit for misfit in self._misfits(mode) if misfit),
            key=lambda misfit: (not misfit.evicts, misfit.needed - misfit.free),
            default=None,
        )
        if closest is None:
            needed, free = wanted.whole, self.situation.house.server.room
        elif closest.evicts:
            return (
                f"{name} fits, but Ollama predicts {amount(closest.needed)} where {amount(closest.free)} count as free "
                "and would evict another model"
            )
        elif closest.model.name != name:
            return (
                f"{name} would leave {amount(max(0, closest.free))} of a GPU for {closest.model.name}, which needs "
                f"{amount(closest.needed)}"
            )
        else:
            needed, free = closest.needed, closest.free
        return (
            f"{name} needs {amount(needed)} of a GPU {load} and the most that is free for it is {amount(max(0, free))}"
        )

    def fewer_slots(self) -> Iterator[Remedy]:
        explicit = self.situation.house.wish.parallel
        if explicit is None or explicit == 1:
            return
        found = _largest(1, explicit - 1, lambda parallel: self._fits(parallel=parallel))
        if found:
            yield Remedy(f"spec.tuning.numParallel {found}", {"numParallel": found})

    def finer_cache(self) -> Iterator[Remedy]:
        wish, shape = self.situation.house.wish, self.shape
        if shape is None or not wish.options.flash_attention:
            return
        generation = wish.options.version.generation
        for kind in (FINER, "q4_0"):
            chosen_anyway = wish.kv_type is None and kind == FINER
            coarser = wish.options.kv_type in PLAIN_CACHES or (wish.options.kv_type == FINER and kind != FINER)
            if coarser and not chosen_anyway and quantises(shape, kind, generation) and self._fits(kv_type=kind):
                yield Remedy(f"spec.tuning.kvCacheType {kind}", {"kvCacheType": kind})
                return

    def smaller_context(self) -> Iterator[Remedy]:
        model = self.want.model
        steps = ((model.context_length or 0) - 1) // _CONTEXT_STEP

        def with_context(step: int) -> bool:
            changed = model.model_copy(update={"context_length": step * _CONTEXT_STEP})
            return self._fits(want=replace(self.want, model=changed))

        found = _largest(1, steps, with_context)
        if found:
            context = found * _CONTEXT_STEP
            yield Remedy(f"contextLength {context} for {self.name}", {"contextLength": context})

    def on_demand(self) -> Iterator[Remedy]:
        model = self.want.model
        if model.residency != "Pinned":
            return
        changed = model.model_copy(update={"residency": "OnDemand"})
        if self._fits(want=replace(self.want, model=changed)):
            yield Remedy(f"residency OnDemand for {self.name}", {"residency": "OnDemand"})

    def smaller_quantisation(self) -> Iterator[Remedy]:
        shape = self.shape
        if shape is None or not shape.file_bytes:
            return
        found = smaller_file(shape, lambda changed: self._fits(shape=changed))
        if found is not None:
            yield Remedy(
                f"a file of at most {amount(found.most)}, such as {found.kind} (about {amount(found.size)})",
                {"fileBytes": found.most},
            )

    def more_hardware(self) -> Iterator[Remedy]:
        situation, server = self.situation, self.situation.house.server
        if self._fits(bins=[(frozenset(), bool(self.situation.house.wish.spread))]):
            yield Remedy("one more server with such GPUs", {"servers": situation.servers + 1})
        inventory = situation.inventory
        if inventory.largest:
            larger = replace(server, usable=inventory.largest)
            if self._fits(bins=[(frozenset(), False)], server=larger):
                yield Remedy(
                    f"hardware.gpu.minMemory {inventory.largest_memory} (there are such cards)",
                    {"minMemory": inventory.largest_memory},
                )
        count = 2
        while count <= _MOST_GPUS:
            if count > server.gpus and self.name not in situation.left_out_with(count):
                yield Remedy(f"hardware.gpu.count {count}", {"count": count})
                return
            count *= 2

    def _bins(self) -> list[tuple[frozenset[str], bool]]:
        """Servers by the models that they hold, and whether they spread; an empty one where there are GPUs for it."""
        groups = self.situation.fitting.groups.values()
        found = [(frozenset(model.name for model in fitted.models), fitted.mode.spread) for fitted in groups]
        return [*found, (frozenset(), False)] if len(found) < self.situation.servers else found

    def _misfits(self, mode: Mode) -> Iterator[Misfit | None]:
        house = self.situation.house
        for names, spread in self._bins():
            beside = replace(mode, spread=spread)
            if not house.holds(names, beside):
                # The others have their place with a quantised cache only.
                beside = replace(beside, kv_type=house.caches({*names, self.name})[-1])
            yield self._misfit(names, beside, self.want, house.footprint(self.name, beside), house.server)

    def _fits(
        self,
        *,
        want: Want | None = None,
        shape: ModelShape | None = None,
        kv_type: str | None = None,
        parallel: int | None = None,
        bins: list[tuple[frozenset[str], bool]] | None = None,
        server: ServerShape | None = None,
    ) -> bool:
        house = self.situation.house
        want, shape = want or self.want, shape or self.shape
        chosen = parallel or house.wish.parallel or 1
        for names, spread in self._bins() if bins is None else bins:
            caches = house.caches({*names, self.name}) if kv_type is None else (kv_type,)
            mode = Mode(chosen, caches[-1], spread)
            options = replace(house.wish.options, kv_type=mode.kv_type)
            wanted = footprint(want.model, shape, options, parallel=mode.parallel)
            if self._misfit(names, mode, want, wanted, server or house.server) is None:
                return True
        return False

    def _misfit(
        self, names: frozenset[str], mode: Mode, want: Want, wanted: Footprint, server: ServerShape
    ) -> Misfit | None:
        """What keeps the model from joining; a clash counts as no room at all."""
        house = self.situation.house
        others = {name: house.wish.wants[name].model for name in names}
        if any(clash(want.model, other) for other in others.values()):
            return Misfit(wanted, wanted.whole, 0)
        pinned = [house.footprint(name, mode) for name, other in others.items() if other.residency == "Pinned"]
        guests = [house.footprint(name, mode) for name, other in others.items() if other.residency != "Pinned"]
        shape = replace(server, spread=mode.spread)
        if want.model.residency == "Pinned":
            found = fits(shape, [*pinned, wanted], guests).misfit
        else:
            found = fits(shape, pinned, [wanted]).misfit
        if found is None or found.evicts or found.model.name == wanted.name:
            return found
        # Somebody else is the first without room: with the others in place, is it this model that is too much?
        seating = seat(shape, [*load_order(pinned), wanted])
        return seating.misfit if seating.misfit and seating.misfit.model.name == wanted.name else found


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The largest number for which it holds, of those from ``low`` to ``high``; 0 where it holds for none."""
    if high < low or not holds(low):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def amount(count: int) -> str:
    """Bytes for people, in the units of ``24Gi``."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
