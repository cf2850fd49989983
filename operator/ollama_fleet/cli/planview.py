"""What people see of a plan, whatever it is shown on. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ollama_fleet.api.deploymentstatus import EffectiveValue
from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.ollamadeployment import TuningSpec
from ollama_fleet.cli.sources import BUNDLED, Found
from ollama_fleet.planning import cores, planner
from ollama_fleet.planning.footprints import estimate_of, footprint, server_shape
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.packing import load_order
from ollama_fleet.planning.plan import Group, Plan
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.planning.scheduler import ServerShape, seat
from ollama_fleet.planning.versions import Version
from ollama_fleet.sizing.estimate import Estimate
from ollama_fleet.sizing.shape import ModelShape

ABOUT_THE_SERVER: Final = frozenset({"version", "image", "profile", "replicas", "readinessPolicy", "gpuMemory"})
"""Values in force that the heading says, or that nobody plans for."""


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model of a group."""

    name: str
    residency: str
    slots: int
    estimate: Estimate | None
    """None where its header is not known."""
    on_gpu: bool = True
    weights: int = 0
    """Bytes of the tensors where the model computes."""

    @property
    def kv(self) -> int:
        """What it remembers."""
        return self.estimate.part("kv") + self.estimate.part("state") if self.estimate else 0

    @property
    def compute(self) -> int:
        """What it computes with."""
        return self.estimate.part("compute") + self.estimate.part("projector") if self.estimate else 0

    @property
    def total(self) -> int:
        """All of it; without a GPU there is no driver's context."""
        if self.estimate is None:
            return 0
        return self.estimate.total if self.on_gpu else self.weights + self.kv + self.compute


@dataclass(frozen=True, slots=True)
class GpuBar:
    """One GPU of a server with all Pinned models loaded. Bytes."""

    used: int
    usable: int


@dataclass(frozen=True, slots=True)
class GroupView:
    """One group."""

    name: str
    replicas: int
    parallel: int
    kv_type: str
    rows: tuple[ModelRow, ...]
    bars: tuple[GpuBar, ...]
    sharing: int = 0
    """OnDemand models, which share what the bars leave free, one at a time."""


@dataclass(frozen=True, slots=True)
class PlanView:
    """One OllamaDeployment."""

    name: str
    plan: Plan
    where: str
    """What its servers run on."""
    groups: tuple[GroupView, ...]
    settings: tuple[EffectiveValue, ...]
    notes: tuple[str, ...]
    sources: Mapping[str, str]
    """Where each model's header comes from."""

    @property
    def fits(self) -> bool:
        """Whether every model has a place."""
        return not self.plan.problems and not self.plan.left_out


def view(name: str, request: PlanRequest, plan: Plan, found: Mapping[str, Found]) -> PlanView:
    """``found``: where each model's header comes from, by served name."""
    inventory = request.survey()
    known = inventory if isinstance(inventory, Inventory) else None
    shapes = planner.shapes(request)
    return PlanView(
        name=name,
        plan=plan,
        where=_where(request, known),
        groups=tuple(_group(group, request, known, shapes) for group in plan.groups),
        settings=tuple(value for value in plan.effective if value.name not in ABOUT_THE_SERVER),
        notes=tuple(_notes({name: found[name] for name in shapes if name in found})),
        sources={name: found[name].source for name in shapes if name in found},
    )


def _where(request: PlanRequest, inventory: Inventory | None) -> str:
    if inventory is not None:
        gpus = "1 GPU" if inventory.gpus == 1 else f"{inventory.gpus} GPUs"
        return f"{gpus} per server, {inventory.source}"
    cpu = request.spec.hardware.cpu
    return f"{cpu.cores} cores and {cpu.memory} per server" if cpu else "hardware unknown"


def _group(
    group: Group, request: PlanRequest, inventory: Inventory | None, shapes: Mapping[str, ModelShape]
) -> GroupView:
    models, seats, bars = group.config.models, dict[str, int](), tuple[GpuBar, ...]()
    if inventory is not None:
        version = Version.parse(group.config.ollama_version)
        server = server_shape(inventory, request.spec.tuning or TuningSpec(), version=version)
        seats, bars = _seated(group, replace(server, spread=group.record.spread), shapes)
    rows = tuple(
        _row(group, model, shapes.get(model.name), gpus=seats.get(model.name, 1) if inventory else 0)
        for model in models
    )
    guests = sum(model.residency != "Pinned" for model in models)
    kv_type = group.options.kv_type
    return GroupView(group.name, group.replicas, group.config.num_parallel, kv_type, rows, bars, guests)


def _row(group: Group, model: GroupModel, shape: ModelShape | None, *, gpus: int) -> ModelRow:
    row = ModelRow(model.name, model.residency, model.parallel, None, on_gpu=gpus > 0)
    if shape is None:
        return row
    slots, options = max(1, group.config.num_parallel), replace(group.options, gpus=gpus or 1)
    found = estimate_of(model, shape, options, parallel=slots)
    weights = found.part("weights") if gpus else cores.weights(shape, found)
    return replace(row, estimate=found, weights=weights)


def _seated(
    group: Group, server: ServerShape, shapes: Mapping[str, ModelShape]
) -> tuple[dict[str, int], tuple[GpuBar, ...]]:
    """On how many GPUs Ollama's scheduler would seat each model, and what the Pinned ones take of each."""
    slots, models = max(1, group.config.num_parallel), group.config.models
    prints = {m.name: footprint(m, shapes.get(m.name), group.options, parallel=slots) for m in models}
    loaded = load_order(prints[model.name] for model in models if model.residency == "Pinned")
    guests = [prints[model.name] for model in models if model.residency != "Pinned"]
    seating = seat(server, loaded)
    found = [*seating.seats, *(one for guest in guests for one in seat(server, [*loaded, guest]).seats)]
    return (
        {one.model.name: len(one.gpus) for one in found},
        tuple(GpuBar(used, server.usable) for used in seating.used),
    )


def _notes(found: Mapping[str, Found]) -> Iterator[str]:
    bundled = sorted(name for name, one in found.items() if one.source == BUNDLED)
    if bundled:
        yield f"From the bundled catalogue, not from a file: {', '.join(bundled)}"
    yield from _unique(one.note for _, one in sorted(found.items()) if one.note)


def _unique(texts: Iterable[str]) -> Iterator[str]:
    yield from dict.fromkeys(texts)
