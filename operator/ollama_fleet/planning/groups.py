"""From a fitted group to a Deployment-to-be: what its servers are started with, or go on running with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ollama_fleet.api.group import GroupConfig, GroupModel, GroupRecord, Started
from ollama_fleet.api.ollamadeployment import (
    OllamaDeploymentSpec,
    PlacementSpec,
    ReadinessPolicy,
    ReadinessSpec,
    StorageSpec,
    TuningSpec,
)
from ollama_fleet.planning import claims, hostmemory
from ollama_fleet.planning.environment import Basis, Setting, build, load_seconds
from ollama_fleet.planning.fitting import Fitted
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.hostmemory import HostMemory
from ollama_fleet.planning.inventory import Inventory
from ollama_fleet.planning.plan import Group
from ollama_fleet.planning.quantities import parse_bytes, seconds
from ollama_fleet.planning.request import PlanRequest
from ollama_fleet.planning.running import sized_for
from ollama_fleet.planning.versions import Version
from ollama_fleet.sizing.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Common:
    """What all groups of a plan share."""

    request: PlanRequest
    version: Version
    image: str
    shapes: Mapping[str, ModelShape]
    options: Options
    wishes: Mapping[str, int]
    """Slots that each model asks for; 0 for as many as fit."""
    waiting: Mapping[str, str]
    """Models without a place, with hashes of what was asked for them."""
    inventory: Inventory | None
    """What new groups were sized with, where something was."""


def group(common: Common, name: str, fitted: Fitted, reasons: Mapping[str, str]) -> Group:
    """The group. A record of what runs is taken over while nothing chosen speaks against it."""
    request, spec, models = common.request, common.request.spec, fitted.models
    tuning = spec.tuning or TuningSpec()
    basis = Basis(
        version=common.version,
        profile=spec.profile or "chat",
        tuning=tuning,
        hardware=spec.hardware,
        models=models,
        shapes=common.shapes,
        mode=fitted.mode,
        reasons=reasons,
    )
    before = next((group.record for group in request.previous if group.name == name), GroupRecord())
    environment, memory = _start(basis, before)
    record = _sized(common, fitted, before, _record(common, basis, environment, memory))
    return Group(
        name=name,
        config=_config(common, name, fitted),
        record=record,
        environment=environment,
        memory=memory,
        options=replace(common.options, kv_type=fitted.mode.kv_type, product=record.product),
        image=common.image,
        image_choice=spec.image or request.policy.tagged(common.version),
        fleet_image=request.policy.fleet_image,
        replicas=0 if spec.suspend else replicas(spec),
        hardware=spec.hardware,
        storage=spec.storage or StorageSpec(),
        placement=spec.placement or PlacementSpec(),
        readiness_policy=readiness_policy(spec),
        fleet_namespaces=tuple(sorted(request.fleet_namespaces)),
        planned=fitted.planned,
        surge=not claims.single_node(request.claim)
        and not any(group.crowded for group in request.previous if group.name == name),
    )


def replicas(spec: OllamaDeploymentSpec) -> int:
    """Servers per group."""
    return 1 if spec.replicas is None else spec.replicas


def readiness_policy(spec: OllamaDeploymentSpec) -> ReadinessPolicy:
    """When a server counts as ready: as the spec says, else by its hardware."""
    if spec.readiness and spec.readiness.policy:
        return spec.readiness.policy
    return "Resident" if spec.hardware.gpu is None else "VRAM"


def _config(common: Common, name: str, fitted: Fitted) -> GroupConfig:
    request = common.request
    readiness = request.spec.readiness or ReadinessSpec()
    return GroupConfig(
        namespace=request.namespace,
        deployment=request.name,
        group=name,
        ollama_version=str(common.version),
        models=fitted.models,
        num_parallel=fitted.mode.parallel,
        load_timeout_seconds=_whole(readiness.timeout) if readiness.timeout else load_seconds(fitted.models),
    )


def _whole(duration: str) -> int:
    return max(1, round(seconds(duration)))


def _start(basis: Basis, before: GroupRecord) -> tuple[tuple[Setting, ...], HostMemory]:
    """Environment and host memory: as the servers were started, or as they are started now."""
    if not _goes_on(basis, before):
        return build(basis), _host_memory(basis)
    kept = tuple(Setting(one.name, one.value, one.source, one.reason) for one in before.environment)
    return kept, HostMemory(before.memory_request, before.memory_limit, before.memory_reason)


def _goes_on(basis: Basis, before: GroupRecord) -> bool:
    """Whether servers that run may keep what they were started with."""
    started = {one.name: one.value for one in before.environment}
    if not started:
        return False
    if before.choices:
        same = before.choices == basis.choices
    else:
        # A record of what an earlier version started: what is explicit, and the slots, must be as they run.
        decided = {"OLLAMA_NUM_PARALLEL": str(basis.mode.parallel)}
        decided |= {setting.name: setting.value for setting in build(basis) if setting.source == "spec"}
        same = all(started.get(name) == value for name, value in decided.items())
    return same and not _outgrown(basis, before, started)


def _outgrown(basis: Basis, before: GroupRecord, started: Mapping[str, str]) -> bool:
    """Whether models joined for which what the servers were started with is too little."""
    if before.wishes.keys() >= {model.name for model in basis.models}:
        return False
    loaded = started.get("OLLAMA_MAX_LOADED_MODELS", "")
    if loaded.isdigit() and basis.tuning.max_loaded_models is None and int(loaded) < len(basis.models):
        return True
    return 0 < before.memory_limit < _host_memory(basis).request


def _host_memory(basis: Basis) -> HostMemory:
    if basis.hardware.gpu is None:
        return HostMemory()
    if basis.tuning.host_memory:
        size = parse_bytes(basis.tuning.host_memory)
        return HostMemory(size, size, "spec.tuning.hostMemory")
    generation = basis.version.generation
    return hostmemory.need(basis.models, basis.shapes, basis.mode, cache=basis.cache, generation=generation)


def _record(common: Common, basis: Basis, environment: Sequence[Setting], memory: HostMemory) -> GroupRecord:
    return GroupRecord(
        choices=basis.choices,
        sized_for=sized_for(common.request.spec),
        environment=tuple(Started(name=s.name, value=s.value, source=s.source, reason=s.reason) for s in environment),
        memory_request=memory.request,
        memory_limit=memory.limit,
        memory_reason=memory.reason,
        wishes=_wishes(common, basis.models),
        waiting=dict(common.waiting),
        kv_type=basis.mode.kv_type,
        spread=basis.mode.spread,
        gpus=common.options.gpus,
    )


def _sized(common: Common, fitted: Fitted, before: GroupRecord, record: GroupRecord) -> GroupRecord:
    """The record with the GPUs that the group was held against, now or before."""
    found = common.inventory
    if fitted.sized == "before":
        known = {"usable": before.usable, "usable_reason": before.usable_reason, "product": before.product}
    elif fitted.sized == "now" and found is not None:
        known = {"usable": found.usable, "usable_reason": found.source, "product": found.product}
    else:
        return record
    return record.model_copy(update=known)


def _wishes(common: Common, models: Sequence[GroupModel]) -> dict[str, int]:
    return {model.name: common.wishes[model.name] for model in models}
