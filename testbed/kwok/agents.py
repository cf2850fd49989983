"""Node agents for simulated nodes: they report what runs there, by the real agent's own rules of when to write.

GPUs are given to pods as a kubelet would. What a sidecar says decides what is in memory, so that one switch plays a
fault for both; faults that only the driver sees are laid over the report.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_fleet.agent.writing import Writing
from ollama_fleet.api import names
from ollama_fleet.api.nodevramreport import GPUProcess, GPUReport, NodeVRAMReportStatus, ResidentModel
from ollama_fleet.api.state import SidecarState
from ollama_fleet.kube import errors, kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.kube.informer import Informer

Json = dict[str, Any]
Fault = Callable[[NodeVRAMReportStatus], NodeVRAMReportStatus]
"""Lays something over a report."""

_MIB: Final = 2**20
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
        models = {uid: list(_resident(pod, state_of(pod))) for uid, pod in running.items()}
        gpus = [self._gpu(card, running, models) for card in self.cards]
        told = [model for found in models.values() for model in found]
        report = NodeVRAMReportStatus(
            sequence=self.sequence,
            gpus=gpus,
            models=sorted(told, key=lambda m: (m.pod, m.name)),
            heard=sorted(_name(pod) for pod in running.values() if state_of(pod) is not None),
        )
        for fault in self.faults:
            report = fault(report)
        return report

    def _gpu(self, card: Card, pods: Mapping[str, Json], models: Mapping[str, list[ResidentModel]]) -> GPUReport:
        mine = [(pods[uid], models[uid]) for uid, given in self._given.items() if given == card.uuid]
        processes = [
            GPUProcess(pid=1000 + number, used_mebibytes=model.size_vram // _MIB, pod=model.pod, weights=model.weights)
            for number, model in enumerate(model for _, found in mine for model in found)
            if model.size_vram
        ]
        used = sum(process.used_mebibytes for process in processes)
        return GPUReport(
            uuid=card.uuid,
            index=self.cards.index(card),
            product=card.product,
            total_mebibytes=card.mebibytes,
            used_mebibytes=used,
            free_mebibytes=max(0, card.mebibytes - used),
            pods=sorted(_name(pod) for pod, _ in mine),
            processes=processes,
        )


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
                await self._store(agent.node, report)
        except errors.KubeError:
            agent.writing.failed()
        else:
            agent.writing.succeeded()
            agent.writes += 1

    async def _store(self, node: str, report: NodeVRAMReportStatus) -> None:
        body = {"status": report.to_wire()}
        try:
            await self._patch(node, body)
        except errors.NotFound:
            made = {"apiVersion": names.API_VERSION, "kind": "NodeVRAMReport", "metadata": {"name": node}}
            await self._client.create(made)
            await self._patch(node, body)

    async def _patch(self, node: str, body: Json) -> None:
        kind = kinds.NODE_VRAM_REPORT
        await self._client.patch(kind, None, node, body, content_type=MERGE_PATCH, subresource="status")


def _resident(pod: Json, state: SidecarState | None) -> Iterable[ResidentModel]:
    for model in state.models if state is not None else ():
        if model.size and model.digest:
            yield ResidentModel(
                pod=_name(pod),
                name=model.name,
                digest=model.digest,
                weights=model.weights,
                size=model.size,
                size_vram=model.size_vram,
                context_length=model.context_length,
            )


def _name(pod: Json) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
