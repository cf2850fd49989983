"""50 GPU nodes with simulated agents: gates, rollouts and demotions on a real control plane."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.kwok import SimulatedNodes
from testbed.kwok.agents import Card, lost
from tests.support.gpu_fleet import GIB, GpuFleet, gpu_fleet

pytestmark = pytest.mark.cluster

NODES = [f"gpu-{number:03}" for number in range(50)]
CARDS = {node: tuple(Card(f"GPU-{node}-{card}") for card in range(2)) for node in NODES}
DEPLOYMENTS = [f"fleet-{number}" for number in range(10)]
REPLICAS = 5
BROKEN = frozenset(NODES[::5])


@pytest.fixture
def simulated(kwok_cluster: SimulatedNodes) -> Iterator[SimulatedNodes]:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
    kwok_cluster.add_many(NODES, resources={"nvidia.com/gpu": "2"}, labels=labels)
    yield kwok_cluster
    for node in NODES:
        kwok_cluster.remove(node)


@pytest.fixture
async def fleet(simulated: SimulatedNodes, tmp_path: Path) -> AsyncIterator[GpuFleet]:
    async with gpu_fleet(simulated, tmp_path, CARDS, "--agents", "--workers=16") as made:
        yield made


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def ready(fleet: GpuFleet, name: str) -> int:
    return sum(map(is_ready, fleet.pods_of(name)))


def all_ready(fleet: GpuFleet) -> bool:
    return all(ready(fleet, name) == len(fleet.pods_of(name)) == REPLICAS for name in DEPLOYMENTS)


async def test_fifty_servers_open_roll_out_and_leave_service_with_their_gpus(fleet: GpuFleet) -> None:
    fleet.sidecars.sizes["chat"] = GIB
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048})
    started = time.monotonic()
    for name in DEPLOYMENTS:
        await fleet.deployment(name, modelSets=[{"name": "chat"}], replicas=REPLICAS)
    await fleet.wait(lambda: all_ready(fleet), lambda: "not all are ready", seconds=180)
    print(f"50 servers on 50 nodes: all gates open {time.monotonic() - started:.1f} s after apply")

    before = {pod["metadata"]["uid"] for name in DEPLOYMENTS for pod in fleet.pods_of(name)}
    started = time.monotonic()
    for name in DEPLOYMENTS:
        await fleet.deployment(name, modelSets=[{"name": "chat"}], replicas=REPLICAS, tuning={"maxQueue": 100})
    least = await rolled_out(fleet, before, seconds=300)
    print(f"rollout of all: {time.monotonic() - started:.1f} s, never fewer than {least} of {REPLICAS} ready")
    assert least == REPLICAS

    pods = [pod for name in DEPLOYMENTS for pod in fleet.pods_of(name)]
    hit = [pod for pod in pods if pod["spec"]["nodeName"] in BROKEN]
    assert hit
    started = time.monotonic()
    for node in BROKEN:
        fleet.agents.agents[node].faults = [lost(*(card.uuid for card in CARDS[node]))]
    for pod in hit:
        await fleet.wait_gate(pod, "False", "GPUUnhealthy")
    seconds = time.monotonic() - started
    print(f"GPUs of {len(BROKEN)} nodes lost: {len(hit)} gates close within {seconds:.1f} s")
    assert seconds < 10
    spared = [pod for pod in pods if pod["spec"]["nodeName"] not in BROKEN]
    assert {fleet.gate(pod)["status"] for pod in spared} == {"True"}


async def rolled_out(fleet: GpuFleet, before: set[str], *, seconds: float) -> int:
    """Wait until no pod of ``before`` is left and all are ready; the fewest ready servers that a deployment had."""
    least, deadline = REPLICAS, time.monotonic() + seconds
    while True:
        least = min(least, *(ready(fleet, name) for name in DEPLOYMENTS))
        left = before & {pod["metadata"]["uid"] for name in DEPLOYMENTS for pod in fleet.pods_of(name)}
        if not left and all_ready(fleet):
            return least
        assert time.monotonic() < deadline, f"{len(left)} old servers are left"
        await asyncio.sleep(0.05)
