"""The planner's speed and packing: placements over many nodes, plans of many models, and the memory it packs."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Final

from benchmarks.report import Report, Row
from ollama_fleet.api.modelset import ModelSetSpec, ModelSetStatus, ResolvedModel
from ollama_fleet.api.ollamadeployment import OllamaDeploymentSpec
from ollama_fleet.cli import catalogue
from ollama_fleet.planning import footprints
from ollama_fleet.planning.inventory import survey
from ollama_fleet.planning.packing import levels_of, pack
from ollama_fleet.planning.placement import Demand, GPUView, Load, NodeView, choose
from ollama_fleet.planning.plan import Plan
from ollama_fleet.planning.planner import plan_deployment
from ollama_fleet.planning.request import ImagePolicy, ModelSetView, PlanRequest, PreviousGroup
from ollama_fleet.planning.versions import Generation
from ollama_fleet.sizing.portable import to_document

_MIB: Final = 2**20
_NODES: Final = 1000
_MODELS: Final = 50
_PLANNED_NODES: Final = 50
_INSTANCES: Final = 120
_SEED: Final = 20261124


def run(*, quick: bool) -> Report:
    """Placements a second, milliseconds per plan, and packed memory against greedy and an exact solver."""
    placements = _placements(seconds=0.5 if quick else 3.0)
    looking = min(_timed(lambda: survey(_spec(), _gpu_nodes(_NODES))) for _ in range(3))
    plans = _plans()
    packed = _packed(_INSTANCES // 6 if quick else _INSTANCES)
    report = Report("planner: speed and packing", {"nodes": str(_NODES), "models": str(_MODELS)})
    report.rows = [
        Row("placements over 1,000 nodes of 8 GPUs", "1/s", placements),
        Row("inventory of 1,000 nodes of 8 GPUs", "ms", 1000 * looking),
        *(Row(f"50 models, 50 nodes of 8 GPUs: {what}", "ms", 1000 * seconds) for what, seconds in plans.items()),
        Row("packed of the optimum; baseline: greedy", "%", 100 * packed["ours"], 100 * packed["greedy"]),
        Row("time of a packing; baseline: greedy", "ms", packed["ours_ms"], packed["greedy_ms"]),
        Row("time of a packing; baseline: exact solver", "ms", packed["ours_ms"], packed["solver_ms"]),
    ]
    report.figures = {
        "placements_per_second": placements,
        "survey_seconds": looking,
        "plan_seconds_cold": plans["estimates new"],
        "plan_seconds_warm": plans["estimates known"],
        "plan_seconds_unchanged": plans["nothing changed"],
        "plan_seconds_crowded": plans["most of them without room"],
        "packed_of_optimum": packed["ours"],
        "greedy_of_optimum": packed["greedy"],
        "times_greedy": packed["ours_ms"] / packed["greedy_ms"],
        "solver_times_ours": packed["solver_ms"] / packed["ours_ms"],
    }
    return report


def _placements(*, seconds: float) -> float:
    generator = random.Random(_SEED)
    nodes = [
        NodeView(
            name=f"node-{index}",
            usable=True,
            labels={"pool": f"p{index % 4}"},
            allocatable={"nvidia.com/gpu": Decimal(8), "cpu": Decimal(96)},
        )
        for index in range(_NODES)
    ]
    loads = {node.name: Load({"nvidia.com/gpu": Decimal(generator.randint(0, 8))}) for node in nodes}
    demand = Demand({"nvidia.com/gpu": Decimal(2), "cpu": Decimal(4)}, selector={"pool": "p1"})
    count, started = 0, time.process_time()
    while time.process_time() - started < seconds:
        choose(demand, nodes, loads)
        count += 1
    return count / (time.process_time() - started)


def _gpu_nodes(count: int) -> Iterator[NodeView]:
    """Nodes of eight 80 GB cards, as their labels and reports show them."""
    cards = tuple(
        GPUView(f"GPU-{number}", "NVIDIA H100 80GB HBM3", 81559 * _MIB, 550 * _MIB, foreign=number * 8 * _MIB)
        for number in range(8)
    )
    labels = {"nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    return (
        NodeView(f"node-{index}", usable=True, labels=labels, allocatable={"nvidia.com/gpu": Decimal(8)}, gpus=cards)
        for index in range(count)
    )


def _spec() -> OllamaDeploymentSpec:
    hardware = {"gpu": {"count": 1, "minMemory": "80Gi"}}
    return OllamaDeploymentSpec.model_validate({"modelSets": [{"name": "all"}], "hardware": hardware})


def _request(*, nodes: int) -> PlanRequest:
    """50 models of the catalogue with one to four slots of 4k to 16k tokens."""
    names = catalogue.known()
    models = [
        {"name": f"m{n}", "model": names[n % len(names)], "contextLength": 4096 * (1 + n % 4), "parallel": 1 + n % 4}
        for n in range(_MODELS)
    ]
    spec = ModelSetSpec.model_validate({"models": models})
    resolved = [
        ResolvedModel(
            name=model.name,
            reference=f"registry.test/library/{names[number % len(names)]}",
            digest=f"sha256:{number:064x}",
            ready=True,
            header=to_document(shape),
        )
        for number, model in enumerate(spec.models)
        if (shape := catalogue.look_up(names[number % len(names)]))
    ]
    view = ModelSetView("all", spec, ModelSetStatus(observed_generation=1, models=resolved), generation=1)
    return PlanRequest(
        namespace="bench",
        name="all",
        spec=_spec(),
        model_sets={"all": view},
        policy=ImagePolicy(fleet_image="fleet"),
        survey=lambda: survey(_spec(), _gpu_nodes(nodes)),
    )


def _plans() -> dict[str, float]:
    """Seconds of whole plans, looking at the nodes included; the best of three where nothing is new."""
    request = _request(nodes=_PLANNED_NODES)
    found: list[Plan] = []
    footprints._estimate.cache_clear()  # noqa: SLF001 - a plan of a process that has just started
    cold = _timed(lambda: found.append(plan_deployment(request)))
    before = tuple(PreviousGroup(g.name, g.config, record=g.record) for g in found[0].groups)
    crowded = replace(request, survey=lambda: survey(_spec(), _gpu_nodes(1)), spec=_eight_each())
    cases = {
        "estimates known": request,
        "nothing changed": replace(request, previous=before),
        "most of them without room": crowded,
    }
    return {"estimates new": cold} | {
        what: min(_timed(partial(plan_deployment, case)) for _ in range(3)) for what, case in cases.items()
    }


def _eight_each() -> OllamaDeploymentSpec:
    """Eight replicas on one node of eight GPUs: one group, for whatever fits into it."""
    return _spec().model_copy(update={"replicas": 8})


def _packed(count: int) -> dict[str, float]:
    """Share of the optimum and milliseconds: ours, greedy (one pass, largest first), and an exact solver."""
    from benchmarks.exact import Instance, instances  # noqa: PLC0415 - the solver is no part of the product

    ours = greedy = best = 0
    ticks = [0.0, 0.0, 0.0]
    found = [one for kind in Generation for one in instances(count // 2, seed=_SEED, generation=kind)]
    for instance in found:
        levels = levels_of(instance.items)
        fresh = Instance(instance.items, instance.prints, instance.shape, instance.servers)
        at = [time.process_time()]
        one_pass = pack(fresh.items, fresh, servers=fresh.servers, thorough=False)
        at.append(time.process_time())
        packing = pack(instance.items, instance, servers=instance.servers)
        at.append(time.process_time())
        best += sum(instance.best().values())
        at.append(time.process_time())
        greedy += sum(one_pass.worth(levels))
        ours += sum(packing.worth(levels))
        ticks = [total + end - begin for total, begin, end in zip(ticks, at, at[1:], strict=False)]
    times = [1000 * total / len(found) for total in ticks]
    shares = {"ours": ours / best, "greedy": greedy / best}
    return shares | dict(zip(("greedy_ms", "ours_ms", "solver_ms"), times, strict=True))


def _timed(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started
