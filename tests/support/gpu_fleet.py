"""GPU deployments on simulated nodes, as a test uses them: scheduler, API server and operator are real; kubelets,
sidecars and agents are played.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ollama_fleet.api import names
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from testbed import crds
from testbed.fakes.registry import FakeRegistry
from testbed.kwok import SimulatedNodes
from testbed.kwok.agents import Agent, Card, SimulatedAgents
from testbed.kwok.sidecars import BY_NODE, SimulatedSidecars, simulated_sidecars
from testbed.models.push import image
from testbed.ports import free_ports

NAMESPACE = "default"
GIB = 2**30


class OperatorProcess:
    """The operator as a process that can be killed and started again."""

    def __init__(self, kubeconfig: Path, log: Path, *flags: str) -> None:
        (self._port,) = free_ports(1)
        self._command = [sys.executable, "-m", "ollama_fleet", "operator", "--fleet-image=fleet:1"]
        self._command += ["--namespace=default", f"--health-port={self._port}", f"--kubeconfig={kubeconfig}"]
        self._command += ["--log-format=text", *flags]
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid


@dataclass
class GpuFleet:
    """The cluster as a test uses it."""

    client: KubeClient
    registry: FakeRegistry
    operator: OperatorProcess
    sidecars: SimulatedSidecars
    agents: SimulatedAgents

    async def model_set(self, name: str, *models: dict[str, Any]) -> None:
        spec = {"source": {"registry": self.registry.address, "insecure": True}, "models": list(models)}
        await self.client.apply(self._wish("ModelSet", name, spec))

    async def deployment(self, name: str, **spec: Any) -> None:
        wish = {"modelSets": [{"name": name}], "hardware": {"gpu": {"count": 1, "minMemory": "24Gi"}}, **spec}
        await self.client.apply(self._wish("OllamaDeployment", name, wish))

    async def serve(self, name: str, **spec: Any) -> None:
        """A deployment of one model of its own name that takes a GiB, Ready with its gates open."""
        self.sidecars.sizes[name] = GIB
        await self.model_set(name, {"name": name, "model": "chat", "contextLength": 2048})
        await self.deployment(name, **spec)
        await self.wait_reason(name, "AllWarm", seconds=90)

    def _wish(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        metadata = {"name": name, "namespace": NAMESPACE}
        return {"apiVersion": names.API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}

    async def status(self, name: str) -> dict[str, Any]:
        found = await self.client.get(kinds.OLLAMA_DEPLOYMENT, NAMESPACE, name)
        status: dict[str, Any] = (found or {}).get("status", {})
        return status

    async def ready(self, name: str) -> dict[str, str]:
        conditions = (await self.status(name)).get("conditions", [])
        return next((one for one in conditions if one["type"] == "Ready"), {})

    async def wait_reason(self, name: str, reason: str, *, seconds: float = 30) -> float:
        started = time.monotonic()
        while (await self.ready(name)).get("reason") != reason:
            if time.monotonic() - started > seconds:
                raise AssertionError(f"{name} never said {reason}: {json.dumps(await self.status(name))[:3000]}")
            await asyncio.sleep(0.1)
        return time.monotonic() - started

    def pods_of(self, name: str) -> list[dict[str, Any]]:
        """In the order of their names; those on their way out are left out."""
        found = [p for p in self.sidecars.pods.list() if p["metadata"]["labels"].get(names.LABEL_DEPLOYMENT) == name]
        living = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(living, key=lambda pod: str(pod["metadata"]["name"]))

    def pod(self, name: str) -> dict[str, Any]:
        """The only pod of a deployment."""
        (found,) = self.pods_of(name)
        return found

    def agent_of(self, pod: dict[str, Any]) -> Agent:
        return self.agents.agents[pod["spec"]["nodeName"]]

    def gate(self, pod: dict[str, Any]) -> dict[str, str]:
        """The readiness gate as it stands now; empty for a pod that is gone."""
        live = self.sidecars.pods.get(NAMESPACE, pod["metadata"]["name"]) or {}
        conditions = live.get("status", {}).get("conditions", [])
        return next((one for one in conditions if one["type"] == names.READINESS_GATE), {})

    async def wait_gate(self, pod: dict[str, Any], status: str, reason: str, *, seconds: float = 20) -> float:
        return await self.wait(
            lambda: (self.gate(pod).get("status"), self.gate(pod).get("reason")) == (status, reason),
            lambda: f"gate of {pod['metadata']['name']} should be {status}/{reason}: {self.gate(pod)}",
            seconds=seconds,
        )

    async def wait(self, done: Callable[[], bool], what: Callable[[], str], *, seconds: float = 20) -> float:
        """Seconds until it is done."""
        started = time.monotonic()
        while not done():
            if time.monotonic() - started > seconds:
                raise AssertionError(f"not within {seconds:.0f} s: {what()}\n{self.operator.log.read_text()[-3000:]}")
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def wait_event(self, pod: dict[str, Any], event_type: str, reason: str) -> str:
        """The message of the operator's event about a pod."""
        for _ in range(100):
            listed, _ = await self.client.list(kinds.EVENT, namespace=NAMESPACE)
            for one in listed:
                told = (one["involvedObject"].get("uid"), one["type"], one["reason"])
                if told == (pod["metadata"]["uid"], event_type, reason):
                    message: str = one["message"]
                    return message
            await asyncio.sleep(0.1)
        raise AssertionError(f"no event {event_type} {reason} about {pod['metadata']['name']}")

    async def clear(self) -> None:
        """Delete everything that tests made, and put all switches back."""
        self.sidecars.changes.clear()
        for agent in self.agents.agents.values():
            agent.silent, agent.faults = False, []
        for kind in (kinds.OLLAMA_DEPLOYMENT, kinds.MODEL_SET):
            for wish in (await self.client.list(kind, namespace=NAMESPACE))[0]:
                metadata = wish["metadata"]
                await self.client.delete(kind, NAMESPACE, metadata["name"], uid=metadata["uid"])
        await self.wait(lambda: not self.sidecars.pods.list(), lambda: "pods are left", seconds=60)


@contextlib.asynccontextmanager
async def gpu_fleet(
    simulated: SimulatedNodes, folder: Path, cards: dict[str, tuple[Card, ...]], *flags: str
) -> AsyncIterator[GpuFleet]:
    """An operator with ``flags`` over nodes that are there, with an agent for each in ``cards``."""
    crds.install(simulated.plane)
    client = await KubeClient.connect(kubeconfig=str(simulated.plane.kubeconfig))
    operator = OperatorProcess(simulated.plane.kubeconfig, folder / "operator.log", *flags)
    async with FakeRegistry() as registry, simulated_sidecars(client) as sidecars:
        registry.add(image("chat"), "library/chat")
        agents = SimulatedAgents(client, sidecars.pods, sidecars.state_of, by_node=BY_NODE)
        for node, given in cards.items():
            agents.add(node, *given)
        running = [asyncio.create_task(one.run()) for one in (*sidecars.informers(), agents)]
        await asyncio.gather(*(informer.synced.wait() for informer in sidecars.informers()))
        operator.start()
        made = GpuFleet(client, registry, operator, sidecars, agents)
        try:
            yield made
            await made.clear()
        finally:
            operator.stop()
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    for node in cards:
        report = await client.get(kinds.NODE_VRAM_REPORT, None, node)
        if report is not None:
            await client.delete(kinds.NODE_VRAM_REPORT, None, node, uid=report["metadata"]["uid"])
    await client.close()
