"""What the sidecars of this node's Ollama pods say is in memory."""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from pydantic import ValidationError

from ollama_fleet.agent.http import HttpClient, HttpFailed, Origin
from ollama_fleet.agent.pods import Pod
from ollama_fleet.agent.report import MAX_MODELS_OF_A_POD
from ollama_fleet.api import names
from ollama_fleet.api.nodevramreport import ResidentModel
from ollama_fleet.api.state import SidecarState

PATH: Final = "/fleet/v1/state"
_TIMEOUT_SECONDS: Final = 2.0
_LIMIT_BYTES: Final = 256 * 1024
_AT_ONCE: Final = 16
_PATIENCE_SECONDS: Final = 8.0
"""Silence after which nothing is told of a pod's models: one lost answer is no news."""
_KEPT: Final = MAX_MODELS_OF_A_POD + 1
"""Of a pod: one more than is told, so that the report knows of those that it leaves out."""


@dataclass(frozen=True, slots=True)
class _Answer:
    at: float
    pod: str
    body: bytes
    models: tuple[ResidentModel, ...]


@dataclass(slots=True)
class Sidecars:
    """Asks every pod; ``models`` is what is known."""

    port: int = names.PORT_ADMIN
    clock: Callable[[], float] = time.monotonic
    _answers: dict[str, _Answer] = field(default_factory=dict)
    """By UID of the pod."""
    _clients: dict[Pod, HttpClient] = field(default_factory=dict)
    """Connections are kept, for making them is most of the work. A pod's address changes when its node restarts."""
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def ask(self, pods: Iterable[Pod]) -> None:
        """Ask all pods that have an address, in about two seconds at the worst for up to 16 of them."""
        asked = [pod for pod in pods if pod.ip]
        for pod in self._clients.keys() - {*asked}:
            self._clients.pop(pod).close()
        for uid in self._answers.keys() - {pod.uid for pod in asked}:
            del self._answers[uid]
        await asyncio.gather(*(self._ask(pod) for pod in asked))

    def models(self) -> dict[str, tuple[ResidentModel, ...]]:
        """Models in memory by pod (``namespace/name``), of pods that answered lately."""
        oldest = self.clock() - _PATIENCE_SECONDS
        return {answer.pod: answer.models for answer in self._answers.values() if answer.at >= oldest}

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    async def _ask(self, pod: Pod) -> None:
        client = self._clients.setdefault(pod, HttpClient(Origin(pod.ip, self.port)))
        try:
            async with self._turns:
                answer = await client.request("GET", PATH, headers={}, timeout=_TIMEOUT_SECONDS, limit=_LIMIT_BYTES)
            if answer.status == 200:
                self._answers[pod.uid] = _Answer(self.clock(), pod.name, answer.body, self._read(pod, answer.body))
        except (HttpFailed, ValidationError):
            pass  # silence: what it said before counts for a while

    def _read(self, pod: Pod, body: bytes) -> tuple[ResidentModel, ...]:
        """Most answers are those of the time before."""
        known = self._answers.get(pod.uid)
        if known is not None and known.body == body:
            return known.models
        return resident(pod, SidecarState.model_validate_json(body))


def resident(pod: Pod, state: SidecarState) -> tuple[ResidentModel, ...]:
    """The models of a pod that are in memory. A size of 0 is a model that is not loaded."""
    loaded = [(model, model.digest) for model in state.models if model.size > 0]
    return tuple(
        ResidentModel(
            pod=pod.name,
            name=model.name,
            digest=digest,
            weights=model.weights,
            size=model.size,
            size_vram=model.size_vram,
            context_length=model.context_length,
            expires_at=model.expires_at,
        )
        for model, digest in loaded[:_KEPT]
        if digest is not None
    )
