"""The planner's speed and packing: placements over many nodes, a plan of many models, and the memory it packs."""

import random
import time
from decimal import Decimal
from typing import Final

from benchmarks.report import Report, Row
from ollama_fleet.api.group import GroupModel
from ollama_fleet.cli import catalogue
from ollama_fleet.planning.fitting import Wish, fit
from ollama_fleet.planning.footprints import Options
from ollama_fleet.planning.packing import Item, fits, pack
from ollama_fleet.planning.placement import Demand, Load, NodeView, choose
from ollama_fleet.planning.scheduler import Footprint, ServerShape
from ollama_fleet.planning.versions import DEFAULT, Generation

_GIB: Final = 2**30
_NODES: Final = 1000
_MODELS: Final = 50
_INSTANCES: Final = 200
_SEED: Final = 20261124


def run(*, quick: bool) -> Report:
    """Placements a second, milliseconds per plan, and packed memory against first fit."""
    placements = _placements(seconds=0.5 if quick else 3.0)
    cold, warm = _plan_seconds(), _plan_seconds()
    ours, first_fit, optimum = _packed(_INSTANCES if not quick else _INSTANCES // 4)
    report = Report("planner: speed and packing", {"nodes": str(_NODES), "models": str(_MODELS)})
    report.rows = [
        Row("placements over 1,000 nodes of 8 GPUs", "1/s", placements),
        Row("plan of 50 models, estimates new", "ms", 1000 * cold),
        Row("plan of 50 models, estimates known", "ms", 1000 * warm),
        Row("packed of the optimum; baseline: first fit", "%", 100 * ours / optimum, 100 * first_fit / optimum),
    ]
    report.figures = {
        "placements_per_second": placements,
        "plan_seconds_cold": cold,
        "plan_seconds_warm": warm,
        "packed_of_optimum": ours / optimum,
        "first_fit_of_optimum": first_fit / optimum,
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


def _plan_seconds() -> float:
    """50 models of the catalogue on servers of one 80 GB GPU, room for 50 of them."""
    names = catalogue.known()
    models = tuple(
        GroupModel(
            name=f"m{index}",
            registry="r",
            repository=names[index % len(names)],
            manifest_digest=f"sha256:{index:064x}",
            context_length=4096 * (1 + index % 4),
            parallel=1 + index % 4,
        )
        for index in range(_MODELS)
    )
    shapes = {model.name: shape for model in models if (shape := catalogue.look_up(model.repository))}
    server = ServerShape(1, 78 * _GIB, _GIB, Generation.LLAMA_SERVER)
    started = time.process_time()
    fit(Wish(models, shapes, Options(DEFAULT, 1)), server, (), servers=_MODELS)
    return time.process_time() - started


def _packed(instances: int) -> tuple[float, float, float]:
    """Bytes packed by us, by first fit in the order of the wish, and at best (small instances, all assignments)."""
    generator = random.Random(_SEED)
    server = ServerShape(1, 25 * _GIB, _GIB, Generation.IN_PROCESS)
    totals = [0.0, 0.0, 0.0]
    for _ in range(instances):
        sizes = [generator.randint(2, 20) for _ in range(generator.randint(4, 9))]
        items = [Item(Footprint(f"m{i}", s * _GIB, s * _GIB, s * _GIB)) for i, s in enumerate(sizes)]
        totals[0] += pack(items, server, servers=2).packed / _GIB
        totals[1] += _first_fit(items, server, servers=2)
        totals[2] += _best(sizes, servers=2, capacity=24)
    return totals[0], totals[1], totals[2]


def _first_fit(items: list[Item], server: ServerShape, *, servers: int) -> float:
    groups: list[list[Item]] = [[] for _ in range(servers)]
    for item in items:
        home = next((group for group in groups if fits(server, [*group, item]).misfit is None), None)
        if home is not None:
            home.append(item)
    return sum(item.footprint.whole for group in groups for item in group) / _GIB


def _best(sizes: list[int], *, servers: int, capacity: int) -> int:
    """Exact, by the sums that can be reached: states are the loads of the servers."""
    states = {(0,) * servers}
    for size in sizes:
        states |= {
            tuple(sorted((*state[:index], state[index] + size, *state[index + 1 :])))
            for state in states
            for index in range(servers)
            if state[index] + size <= capacity
        }
    return max(sum(state) for state in states)
