"""The operator on simulated nodes: from apply to all Ready, and what it costs, against a stock kopf operator.

Everything but the kubelets is real: API server, etcd, controllers (but those of endpoints), scheduler. The sidecars
answer warm at once, so what is measured is the operator and not a model's loading.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.operator_process import WRITES, operator, peak_mebibytes, process, until
from benchmarks.report import Report, Row, cpu_seconds
from benchmarks.stock_kopf import children
from ollama_fleet.api import names
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.informer import Informer
from testbed import crds
from testbed.controlplane import ControlPlane
from testbed.kwok import SimulatedNodes
from testbed.kwok.sidecars import simulated_sidecars
from testbed.models.push import image, into_registry
from testbed.paths import ROOT
from testbed.registry import real_registry
from testbed.state import claimed

_OBJECTS: Final = {True: 20, False: 300}
_IDLE_SECONDS: Final = {True: 5.0, False: 60.0}
_LIMIT_SECONDS: Final = {True: 60.0, False: 600.0}
_NODES: Final = 4
_NAMESPACE: Final = "default"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one operator needed."""

    seconds: float
    cpu: float
    peak_mebibytes: float


@dataclass(frozen=True, slots=True)
class Idle:
    """What ours needs while nothing happens."""

    writes: int
    cpu_percent: float
    """Of a core."""


def run(*, quick: bool) -> Report:
    """Ours first, then the baseline on the same control plane."""
    return asyncio.run(_measure(quick=quick))


async def _measure(*, quick: bool) -> Report:
    count, limit = _OBJECTS[quick], _LIMIT_SECONDS[quick]
    report = Report(f"operator: {count} OllamaDeployments on simulated nodes", {"Kubernetes": "1.37", "kwok": "0.8.0"})
    with claimed("benchmark") as state:
        plane = ControlPlane(state, endpoints=False)
        plane.up()
        crds.install(plane)
        nodes = SimulatedNodes(plane)
        nodes.up()
        for number in range(_NODES):
            nodes.add(f"simulated-{number}", number=number)
        with real_registry() as registry:
            into_registry(image("chat"), registry, "library/chat")
            async with _cluster(plane) as (client, wishes):
                ours, requests, idle = await _ours(plane, client, wishes, registry, count=count, quick=quick)
                await _delete_all(client, wishes)
                floor = await _floor(client, count=count, limit=limit)
                await _delete_all(client, wishes)
                stock = await _stock(plane, client, wishes, count=count, limit=limit)
    report.rows = [
        Row("apply to all Ready", "s", ours.seconds, stock.seconds),
        Row("the same objects without an operator", "s", floor),
        Row("CPU", "s", ours.cpu, stock.cpu),
        Row("peak memory", "MiB", ours.peak_mebibytes, stock.peak_mebibytes),
        Row("writes per object", "1", sum(requests[verb] for verb in WRITES) / count),
        Row("GETs per object", "1", requests["get"] / count),
        Row(f"writes in {_IDLE_SECONDS[quick]:.0f} idle seconds", "1", float(idle.writes)),
        Row("CPU while idle", "% of a core", idle.cpu_percent),
    ]
    report.figures = {
        "objects": count,
        "seconds_to_ready": ours.seconds,
        "seconds_without_operator": floor,
        "peak_rss_mib": ours.peak_mebibytes,
        "cpu_seconds": ours.cpu,
        "writes_per_object": sum(requests[verb] for verb in WRITES) / count,
        "gets_per_object": requests["get"] / count,
        "idle_writes": idle.writes,
        "idle_cpu_percent": idle.cpu_percent,
        "speedup_vs_stock_kopf": stock.seconds / ours.seconds,
    }
    return report


@contextlib.asynccontextmanager
async def _cluster(plane: ControlPlane) -> AsyncIterator[tuple[KubeClient, Informer]]:
    """A client, the OllamaDeployments as they become Ready, and the sidecars of all pods."""
    client = await KubeClient.connect(kubeconfig=str(plane.kubeconfig))
    wishes = Informer(client, kinds.OLLAMA_DEPLOYMENT)
    async with simulated_sidecars(client) as sidecars:
        followed = (wishes, *sidecars.informers())
        running = [asyncio.create_task(informer.run()) for informer in followed]
        try:
            for informer in followed:
                await informer.synced.wait()
            yield client, wishes
        finally:
            for task in running:
                task.cancel()
            await client.close()


async def _ours(
    plane: ControlPlane, client: KubeClient, wishes: Informer, registry: str, *, count: int, quick: bool
) -> tuple[Cost, dict[str, int], Idle]:
    async with operator(plane.kubeconfig, "--workers=16") as process_:
        await client.create(_model_set(registry.removeprefix("http://")))
        cost = await _create_all(client, wishes, process_.pid, count=count, limit=_LIMIT_SECONDS[quick])
        requests = process_.requests()
        # Events are written with a delay, their repeats a minute later.
        await asyncio.sleep(5)
        writes, cpu, started = process_.writes(), cpu_seconds(process_.pid), time.monotonic()
        await asyncio.sleep(_IDLE_SECONDS[quick])
        percent = 100 * (cpu_seconds(process_.pid) - cpu) / (time.monotonic() - started)
        return cost, requests, Idle(process_.writes() - writes, percent)


async def _stock(plane: ControlPlane, client: KubeClient, wishes: Informer, *, count: int, limit: float) -> Cost:
    script = ROOT / "benchmarks" / "stock_kopf.py"
    command = [sys.executable, "-m", "kopf", "run", "--standalone", "--all-namespaces", "--quiet", str(script)]
    environment = {**os.environ, "KUBECONFIG": str(plane.kubeconfig), "PYTHONPATH": str(ROOT)}
    with process(command, environment) as stock:
        await asyncio.sleep(5)
        return await _create_all(client, wishes, stock.pid, count=count, limit=limit)


async def _floor(client: KubeClient, *, count: int, limit: float) -> float:
    """Seconds until the children of as many OllamaDeployments are there and their pods are ready, without an operator.

    What the API server, the controllers and the simulated kubelets need by themselves: no operator can be faster.
    """
    deployments = Informer(client, kinds.DEPLOYMENT)
    following, started = asyncio.create_task(deployments.run()), time.monotonic()
    at_once = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with at_once:
            owner = await client.create(_wish(number))
            for child in children(owner):
                child.get("spec", {}).get("template", {}).get("spec", {}).pop("readinessGates", None)
                await client.create(child)

    def ready() -> int:
        return sum(one.get("status", {}).get("readyReplicas", 0) for one in deployments.list())

    try:
        await asyncio.gather(*(create(number) for number in range(count)))
        await until(lambda: ready() == count, limit)
        return time.monotonic() - started
    finally:
        following.cancel()


async def _create_all(client: KubeClient, wishes: Informer, pid: int, *, count: int, limit: float) -> Cost:
    before, started = cpu_seconds(pid), time.monotonic()
    at_once = asyncio.Semaphore(32)

    async def create(number: int) -> None:
        async with at_once:
            await client.create(_wish(number))

    await asyncio.gather(*(create(number) for number in range(count)))
    await until(lambda: sum(map(_is_ready, wishes.list())) == count, limit)
    return Cost(time.monotonic() - started, cpu_seconds(pid) - before, peak_mebibytes(pid))


async def _delete_all(client: KubeClient, wishes: Informer) -> None:
    for wish in wishes.list():
        metadata = wish["metadata"]
        await client.delete(kinds.OLLAMA_DEPLOYMENT, metadata["namespace"], metadata["name"], uid=metadata["uid"])
    async with asyncio.timeout(120):
        while (await client.list(kinds.POD, namespace=_NAMESPACE))[0]:
            await asyncio.sleep(0.5)


def _wish(number: int) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "OllamaDeployment",
        "metadata": {"name": f"chat-{number}", "namespace": _NAMESPACE},
        "spec": {"modelSets": [{"name": "models"}], "hardware": {"cpu": {"cores": "100m", "memory": "128Mi"}}},
    }


def _model_set(registry: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "ModelSet",
        "metadata": {"name": "models", "namespace": _NAMESPACE},
        "spec": {"source": {"registry": registry, "insecure": True}, "models": [{"name": "chat"}]},
    }


def _is_ready(wish: dict[str, Any]) -> bool:
    conditions = {entry["type"]: entry["status"] for entry in wish.get("status", {}).get("conditions", ())}
    return conditions.get("Ready") == "True" and conditions.get("Reconciling") == "False"
