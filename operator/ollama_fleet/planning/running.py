"""What runs now, as far as a new plan must respect it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ollama_fleet.api.group import GroupModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec, PlacementSpec, TuningSpec
from ollama_fleet.planning.footprints import Mode, batch_of
from ollama_fleet.planning.inventory import least_memory, product_values
from ollama_fleet.planning.placement import required_terms
from ollama_fleet.planning.quantities import parse_bytes
from ollama_fleet.planning.request import PreviousGroup
from ollama_fleet.planning.versions import Generation, Version


@dataclass(frozen=True, slots=True)
class Want:
    """One model of the wish."""

    model: GroupModel
    slots: int
    """Requests at once; 0 asks for as many as fit."""

    @property
    def key(self) -> str:
        """Hash of everything for which a place is looked for."""
        model = self.model
        parts = [model.manifest_digest, model.context_length, model.residency, model.modelfile.adapter]
        batch = batch_of(model)
        wire = json.dumps([*parts, self.slots, model.priority, *([batch] if batch else [])])
        return hashlib.sha256(wire.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Running:
    """A group whose servers can go on as they are."""

    name: str
    mode: Mode
    members: frozenset[str]
    """Its models that are still wished for."""
    settled: frozenset[str]
    """Those that are wished for just as they run."""
    sized: bool = True
    """Whether its plan knew how large its GPUs are."""
    product: str = ""
    """Of those GPUs."""
    starved: frozenset[str] = frozenset()
    """Models that found too little memory on every server: so as it runs, it does not fit."""

    def failed_with(self, names: frozenset[str], mode: Mode) -> bool:
        """Whether it was tried to hold as much and there was too little memory."""
        alike = (mode.kv_type, mode.spread) == (self.mode.kv_type, self.mode.spread)
        return bool(self.starved) and alike and mode.parallel >= self.mode.parallel and names >= self.members


def running(
    previous: Iterable[PreviousGroup],
    wants: Mapping[str, Want],
    spec: OllamaDeploymentSpec,
    *,
    generation: Generation,
) -> dict[str, Running]:
    """Groups by name; those that a choice for all servers starts anew anyway are not among them."""
    found = {}
    gpus = spec.hardware.gpu.count if spec.hardware.gpu else 0
    for group in previous:
        mode = mode_of(group)
        if _starts_anew(group, mode, spec, generation=generation, gpus=gpus):
            continue
        members = {model.name: model for model in group.config.models if model.name in wants}
        same = (name for name, model in members.items() if _same(model, wants[name], group))
        # Where a load found no room, the figures have changed since the plan was made.
        settled = frozenset(same) - group.starved
        # A record that knows no choices stands for one that an earlier version did not write.
        sized = gpus > 0 and bool(group.record.usable or not group.record.choices)
        found[group.name] = Running(
            name=group.name,
            mode=mode,
            members=frozenset(members),
            settled=settled,
            sized=sized,
            product=group.record.product,
            starved=group.starved & members.keys(),
        )
    return found


def waiting(previous: Iterable[PreviousGroup], wants: Mapping[str, Want]) -> frozenset[str]:
    """Models for which an earlier plan found no place, and of which nothing has changed since."""
    noted = {name: key for group in previous for name, key in group.record.waiting.items()}
    return frozenset(name for name, want in wants.items() if noted.get(name) == want.key)


def mode_of(group: PreviousGroup) -> Mode:
    """How its servers run."""
    return Mode(max(1, group.config.num_parallel), group.record.kv_type, group.record.spread)


def sized_for(spec: OllamaDeploymentSpec) -> str:
    """Hash of everything chosen that decides which GPUs there are and what they hold, however it is written."""
    tuning, placement = spec.tuning or TuningSpec(), spec.placement or PlacementSpec()
    gpu, cpu = spec.hardware.gpu, spec.hardware.cpu
    wire = json.dumps(
        [
            [gpu.resource_name, least_memory(gpu), sorted(product_values(gpu))] if gpu else None,
            parse_bytes(cpu.memory) if cpu else None,
            [placement.node_selector or {}, required_terms(placement.affinity)],
            [tuning.flash_attention is not False, parse_bytes(tuning.gpu_overhead) if tuning.gpu_overhead else None],
        ],
        sort_keys=True,
    )
    return hashlib.sha256(wire.encode()).hexdigest()[:12]


def _starts_anew(
    group: PreviousGroup, mode: Mode, spec: OllamaDeploymentSpec, *, generation: Generation, gpus: int
) -> bool:
    tuning = spec.tuning or TuningSpec()
    if Version.parse(group.config.ollama_version).generation is not generation:
        return True
    if group.record.sized_for not in {"", sized_for(spec)}:
        return True
    explicit = (
        (tuning.num_parallel, mode.parallel),
        (tuning.kv_cache_type, mode.kv_type),
        (tuning.sched_spread, mode.spread),
        # A record of an earlier version may not know how many GPUs its servers have.
        (gpus, group.record.gpus or gpus),
    )
    if any(wished is not None and wished != runs for wished, runs in explicit):
        return True
    # What was explicit and is so no longer is chosen anew.
    dropped = {setting.name for setting in group.record.environment if setting.source == "spec"}
    freed = (
        ("OLLAMA_NUM_PARALLEL", tuning.num_parallel),
        ("OLLAMA_KV_CACHE_TYPE", tuning.kv_cache_type),
        ("OLLAMA_SCHED_SPREAD", tuning.sched_spread),
    )
    return any(name in dropped and wished is None for name, wished in freed)


def _same(model: GroupModel, want: Want, group: PreviousGroup) -> bool:
    """Whether it takes what it took; how it is written, its priority and its prompt do not count."""
    wished = want.model
    takes, took = (
        (one.manifest_digest, one.context_length, one.residency, one.modelfile.adapter, batch_of(one))
        for one in (wished, model)
    )
    return takes == took and group.record.wishes.get(model.name, model.parallel) == want.slots
