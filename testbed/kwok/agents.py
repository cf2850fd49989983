"""Node agents for simulated nodes: what they write, and when, is by the real agent's own rules.

GPUs are given to pods as a kubelet would. What a sidecar says decides what is in memory, so that one switch plays a
fault for both; faults that only the driver sees are laid over what the agent observes.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from ollama_fleet.agent.gpu import LOST, Device, DeviceState, GpuProcess, GpuView, Memory
from ollama_fleet.agent.pods import Pod
from ollama_fleet.agent.report import Observation, status
from ollama_fleet.agent.sidecars import resident
from ollama_fleet.agent.writing import Writing
from ollama_fleet.api import names
from ollama_fleet.api.common import Condition
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus, ResidentModel
from ollama_fleet.api.state import SidecarState
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.kube.informer import Informer

Json = dict[str, Any]
Fault = Callable[[Observation], Observation]
"""Lays something over what is seen."""

MIB: Final = 2**20
_DRIVER: Final = "580.65.06"
_MEMORY: Final = 64 * 1024 * MIB
"""Of every node."""
_LOOK_SECONDS: Final = 0.5
_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class Card:
    """One device of a node."""

    uuid: str
    product: str = "NVIDIA L4"
    mebibytes: int = 23034


@dataclass(slots=True)
class Agent:
    """The agent of one node. Its switches may be changed at any time."""

    node: str
    cards: tuple[Card, ...]
    silent: bool = False
    """It writes nothing."""
    faults: list[Fault] = field(default_factory=list)
    sequence: int = field(default_factory=lambda: int(time.time()))
    writing: Writing = field(default_factory=lambda: Writing(clock=time.monotonic))
    writes: int = 0
    generation: int = -1
    """Of the report's spec as last seen."""
    _conditions: list[Condition] = field(default_factory=list)
    _given: dict[str, str] = field(default_factory=dict)
    """UUID of a card by uid of the pod that has it."""

    def see(self, pods: Iterable[Json], state_of: Callable[[Json], SidecarState | None]) -> NodeVRAMReportStatus:
        """The report of what runs now."""
        running = {pod["metadata"]["uid"]: pod for pod in pods}
        self._given = {uid: card for uid, card in self._given.items() if uid in running}
        free = [card.uuid for card in self.cards if card.uuid not in self._given.values()]
        for uid in running.keys() - self._given.keys():
            if free:
                self._given[uid] = free.pop(0)
        states = {uid: state for uid, pod in running.items() if (state := state_of(pod)) is not None}
        names_ = {uid: _name(pod) for uid, pod in running.items()}
        models = {names_[uid]: resident(Pod(uid, names_[uid]), state) for uid, state in states.items()}
        seen = self._observe({names_[uid]: card for uid, card in self._given.items()}, models)
        for fault in self.faults:
            seen = fault(seen)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        report = status(seen, previous=self._conditions, generation=self.generation, now=now, sequence=self.sequence)
        self._conditions = report.conditions
        return report

    def _observe(self, given: Mapping[str, str], models: Mapping[str, tuple[ResidentModel, ...]]) -> Observation:
        """``given`` are the UUIDs of cards by pod."""
        loaded = [model for pod in given for model in models.get(pod, ()) if model.size_vram]
        processes = dict(enumerate(loaded, start=1000))

        def device(index: int, card: Card) -> DeviceState:
            mine = {pid: model.size_vram for pid, model in processes.items() if given[model.pod] == card.uuid}
            total, used = card.mebibytes * MIB, sum(mine.values())
            memory = Memory(total=total, reserved=0, used=used, free=max(0, total - used))
            shown = tuple(GpuProcess(pid, size) for pid, size in mine.items())
            return DeviceState(Device(card.uuid, index, card.product, memory, shown))

        devices = tuple(device(index, card) for index, card in enumerate(self.cards))
        return Observation(
            GpuView(driver=_DRIVER, devices=devices),
            memory=_MEMORY,
            holders={card: (pod,) for pod, card in given.items()},
            process_pods={pid: model.pod for pid, model in processes.items()},
            process_weights={pid: model.weights for pid, model in processes.items() if model.weights},
            models=models,
        )


def lost(*cards: str, reason: str = LOST) -> Fault:
    """These devices, by UUID, cannot take work any more."""

    def fault(seen: Observation) -> Observation:
        devices = (replace(one, reason=reason) if one.device.uuid in cards else one for one in seen.view.devices)
        return replace(seen, view=replace(seen.view, devices=tuple(devices)))

    return fault


class SimulatedAgents:
    """The agents of all simulated nodes of a cluster."""

    def __init__(
        self, client: KubeClient, pods: Informer, state_of: Callable[[Json], SidecarState | None], *, by_node: str
    ) -> None:
        """``pods`` has an index ``by_node``; ``state_of`` is what a pod's sidecar would say now."""
        self.agents: dict[str, Agent] = {}
        self._client = client
        self._pods = pods
        self._state_of = state_of
        self._by_node = by_node
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def add(self, node: str, *cards: Card) -> Agent:
        """Give a node an agent."""
        self.agents[node] = Agent(node, cards)
        return self.agents[node]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            started = time.monotonic()
            await asyncio.gather(*(self.look(agent) for agent in list(self.agents.values())))
            await asyncio.sleep(max(0.0, _LOOK_SECONDS - (time.monotonic() - started)))

    async def look(self, agent: Agent) -> None:
        """One look at one node, and a write if one is due."""
        if agent.silent:
            return
        report = agent.see(self._pods.by_index(self._by_node, agent.node), self._state_of)
        if agent.writing.due(report):
            agent.sequence += 1
            await self.write(agent, report.model_copy(update={"sequence": agent.sequence}))

    async def write(self, agent: Agent, report: NodeVRAMReportStatus) -> None:
        """Write a report whatever the rules say."""
        agent.writing.begin(report)
        try:
            async with self._turns:
                await self._store(agent, report)
        except errors.KubeError:
            agent.writing.failed()
        else:
            agent.writing.succeeded()
            agent.writes += 1

    async def _store(self, agent: Agent, report: NodeVRAMReportStatus) -> None:
        body = {"status": report.to_wire()}
        try:
            await self._patch(agent, body)
        except errors.NotFound:
            made = {"apiVersion": names.API_VERSION, "kind": "NodeVRAMReport", "metadata": {"name": agent.node}}
            await self._client.create(made)
            await self._patch(agent, body)

    async def _patch(self, agent: Agent, body: Json) -> None:
        kind = kinds.NODE_VRAM_REPORT
        found = await self._client.patch(kind, None, agent.node, body, content_type=MERGE_PATCH, subresource="status")
        agent.generation = found["metadata"]["generation"]


def _name(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
