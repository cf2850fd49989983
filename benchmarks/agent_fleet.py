"""Reports of many nodes on one operator: what they cost it, and how long a lost GPU takes to reach a pod's condition.

API server, etcd, scheduler and operator are real. A few nodes run servers and are played by kwok; the others are Node
objects that only report: an operator sees no difference. Reports have 8 GPUs and are written at the agents' own rate.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.operator_process import MeasuredOperator, operator, peak_mebibytes, until
from benchmarks.report import cpu_seconds
from ollama_fleet.agent.writing import HEARTBEAT_SECONDS, JITTER
from ollama_fleet.api import names
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.kube.transport import Json
from testbed import crds
from testbed.controlplane import ControlPlane
from testbed.fakes.registry import FakeRegistry
from testbed.kwok import SimulatedNodes
from testbed.kwok.agents import Agent, Card, SimulatedAgents, lost
from testbed.kwok.sidecars import BY_NODE, SimulatedSidecars, simulated_sidecars
from testbed.models.push import image
from testbed.state import claimed

_GPUS: Final = 8
_SERVING: Final = 4
"""Nodes that run servers."""
_SERVERS: Final = 16
_SEED: Final = 20261125
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Size:
    """How much is done."""

    nodes: int
    rounds: int
    """Of lost GPUs: each closes the gates of all servers, and opens them again."""
    idle_seconds: float


QUICK: Final = Size(nodes=60, rounds=1, idle_seconds=5)
FULL: Final = Size(nodes=1000, rounds=8, idle_seconds=120)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was seen."""

    report_to_condition_p99_s: float
    report_to_condition_median_s: float
    cpu_percent: float
    """Of a core, while nothing happens but heartbeats."""
    peak_mib: float
    writes: int
    """Of the operator, in that time."""
    reports_per_second: float


def run(size: Size) -> Figures:
    """Everything, with a control plane of its own. Blocks."""
    with claimed("benchmark") as state:
        plane = ControlPlane(state, endpoints=False)
        plane.up()
        crds.install(plane)
        simulated = SimulatedNodes(plane)
        simulated.up()
        labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
        serving = [f"serving-{number}" for number in range(_SERVING)]
        simulated.add_many(serving, resources={"nvidia.com/gpu": str(_GPUS)}, labels=labels)
        return asyncio.run(_measure(plane.kubeconfig, serving, size))


async def _measure(kubeconfig: Path, serving: list[str], size: Size) -> Figures:
    async with _cluster(kubeconfig, serving) as (client, sidecars, agents), FakeRegistry() as registry:
        registry.add(image("chat"), "library/chat")
        idle = [f"idle-{number}" for number in range(size.nodes - _SERVING)]
        await _create_nodes(client, idle)
        # Agents come last: an operator does not believe a report that was there before it until it moves.
        async with (
            operator(kubeconfig, "--agents") as process,
            _running(agents),
            _heartbeats(client, idle) as written,
        ):
            await _serve(client, registry.address)
            pods = sidecars.pods
            await until(lambda: len(pods.list()) == _SERVERS and all(map(_is_open, pods.list())), 120)
            await asyncio.sleep(2)
            cpu, writes, reports = await _idle(process, written, seconds=size.idle_seconds)
            times = [seconds for _ in range(size.rounds) for seconds in await _lose_gpus(agents, sidecars)]
            return Figures(
                report_to_condition_p99_s=_percentile(times, 0.99),
                report_to_condition_median_s=statistics.median(times),
                cpu_percent=cpu,
                peak_mib=peak_mebibytes(process.pid),
                writes=writes,
                reports_per_second=reports / size.idle_seconds,
            )


@contextlib.asynccontextmanager
async def _cluster(
    kubeconfig: Path, serving: list[str]
) -> AsyncIterator[tuple[KubeClient, SimulatedSidecars, SimulatedAgents]]:
    client = await KubeClient.connect(kubeconfig=str(kubeconfig))
    async with simulated_sidecars(client) as sidecars:
        sidecars.sizes["chat"] = _GIB
        agents = SimulatedAgents(client, sidecars.pods, sidecars.state_of, by_node=BY_NODE)
        for node in serving:
            agents.add(node, *_cards(node))
        running = [asyncio.create_task(informer.run()) for informer in sidecars.informers()]
        try:
            for informer in sidecars.informers():
                await informer.synced.wait()
            yield client, sidecars, agents
        finally:
            for task in running:
                task.cancel()
            await client.close()


@contextlib.asynccontextmanager
async def _running(agents: SimulatedAgents) -> AsyncIterator[None]:
    task = asyncio.create_task(agents.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _create_nodes(client: KubeClient, idle: list[str]) -> None:
    """Objects only: no kubelet, and nothing is scheduled there, for they have no room."""
    turns = asyncio.Semaphore(16)

    async def create(name: str) -> None:
        async with turns:
            await client.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
            made = {"apiVersion": names.API_VERSION, "kind": "NodeVRAMReport", "metadata": {"name": name}}
            await client.create(made)

    await asyncio.gather(*map(create, idle))


@contextlib.asynccontextmanager
async def _heartbeats(client: KubeClient, idle: list[str]) -> AsyncIterator[list[float]]:
    """Agents of nodes on which nothing happens. Yields the times of their writes, which go on."""
    generator, written = random.Random(_SEED), list[float]()

    async def agent(name: str) -> None:
        sequence, status = 1, Agent(name, _cards(name)).see([], lambda _: None).to_wire()
        await asyncio.sleep(generator.uniform(0, HEARTBEAT_SECONDS))
        while True:
            sequence += 1
            body = {"status": {**status, "sequence": sequence}}
            kind = kinds.NODE_VRAM_REPORT
            await client.patch(kind, None, name, body, content_type=MERGE_PATCH, subresource="status")
            written.append(time.monotonic())
            await asyncio.sleep(HEARTBEAT_SECONDS * generator.uniform(1 - JITTER, 1 + JITTER))

    tasks = [asyncio.create_task(agent(name)) for name in idle]
    try:
        yield written
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _cards(node: str) -> tuple[Card, ...]:
    return tuple(Card(f"GPU-{node}-{number}") for number in range(_GPUS))


async def _serve(client: KubeClient, registry: str) -> None:
    """Servers with a GPU each, on the nodes that have some."""
    source = {"registry": registry, "insecure": True}
    models = {"source": source, "models": [{"name": "chat", "contextLength": 2048}]}
    servers = {"modelSets": [{"name": "chat"}], "replicas": _SERVERS, "hardware": {"gpu": {"count": 1}}}
    for kind, spec in (("ModelSet", models), ("OllamaDeployment", servers)):
        metadata = {"name": "chat", "namespace": "default"}
        await client.create({"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})


def _is_open(pod: Json) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", ())}
    return bool(conditions.get(names.READINESS_GATE) == "True")


async def _idle(process: MeasuredOperator, written: list[float], *, seconds: float) -> tuple[float, int, int]:
    """CPU percent and writes of the operator, and reports that came, while nothing changes."""
    cpu, writes, reports = cpu_seconds(process.pid), process.writes(), len(written)
    await asyncio.sleep(seconds)
    spent = cpu_seconds(process.pid) - cpu
    return spent / seconds * 100, process.writes() - writes, len(written) - reports


async def _lose_gpus(agents: SimulatedAgents, sidecars: SimulatedSidecars) -> list[float]:
    """Every GPU is lost and comes back; seconds from each report to the gates of the pods that it speaks of."""
    for agent in agents.agents.values():
        agent.silent = True
    await asyncio.sleep(1)
    found = await asyncio.gather(*(_lose(agents, agent, sidecars) for agent in agents.agents.values()))
    times = [seconds for one in found for seconds in one]
    for agent in agents.agents.values():
        agent.faults = []
        await _report(agents, agent, sidecars)
    await until(lambda: all(map(_is_open, sidecars.pods.list())), 60)
    return times


async def _lose(agents: SimulatedAgents, agent: Agent, sidecars: SimulatedSidecars) -> list[float]:
    names_ = [pod["metadata"]["name"] for pod in sidecars.pods.by_index(BY_NODE, agent.node)]
    agent.faults = [lost(*(card.uuid for card in agent.cards))]
    started = time.monotonic()
    await _report(agents, agent, sidecars)

    async def closed(name: str) -> float:
        while _is_open(sidecars.pods.get("default", name) or {"status": {}}):
            if time.monotonic() - started > 60:
                raise TimeoutError(f"the gate of {name} stays open")
            await asyncio.sleep(0.005)
        return time.monotonic() - started

    return list(await asyncio.gather(*map(closed, names_)))


async def _report(agents: SimulatedAgents, agent: Agent, sidecars: SimulatedSidecars) -> None:
    agent.sequence += 1
    report = agent.see(sidecars.pods.by_index(BY_NODE, agent.node), sidecars.state_of)
    await agents.write(agent, report.model_copy(update={"sequence": agent.sequence}))


def _percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
