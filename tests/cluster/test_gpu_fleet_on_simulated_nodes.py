"""GPU deployments on simulated nodes with reports of simulated agents: sizes, gates, faults.

Scheduler, API server and operator are real; kubelets, sidecars and agents are played.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from ollama_fleet.api import names
from ollama_fleet.kube import kinds
from ollama_fleet.kube.client import MERGE_PATCH, KubeClient
from ollama_fleet.kube.informer import Informer
from testbed import crds
from testbed.fakes.registry import FakeRegistry
from testbed.kwok import SimulatedNodes
from testbed.kwok.sidecars import warm_sidecars
from testbed.models.push import image
from testbed.paths import ROOT
from testbed.ports import free_ports
from tests.support.sparse_models import write

pytestmark = pytest.mark.cluster

CARDS = {"gpu-a": ("NVIDIA-L4", 23034), "gpu-b": ("NVIDIA-L4", 23034), "gpu-large": ("NVIDIA-A100-SXM4-80GB", 81920)}
NAMESPACE = "default"


@pytest.fixture(scope="module")
def plane(kwok_cluster: SimulatedNodes) -> Iterator[SimulatedNodes]:
    crds.install(kwok_cluster.plane)
    for number, (name, (product, memory)) in enumerate(CARDS.items()):
        labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory)}
        kwok_cluster.add(name, number=210 + number, resources={"nvidia.com/gpu": "2"}, labels=labels)
    yield kwok_cluster
    for name in CARDS:
        kwok_cluster.remove(name)


@dataclass
class Fleet:
    """The cluster as a test uses it."""

    client: KubeClient
    registry: str
    pods: Informer
    sequences: dict[str, int] = field(default_factory=dict)

    async def model_set(self, name: str, *models: dict[str, Any]) -> None:
        spec = {"source": {"registry": self.registry, "insecure": True}, "models": list(models)}
        await self.client.apply(self._wish("ModelSet", name, spec))

    async def deployment(self, name: str, **spec: Any) -> None:
        wish = {"modelSets": [{"name": name}], "hardware": {"gpu": {"count": 1, "minMemory": "24Gi"}}, **spec}
        await self.client.apply(self._wish("OllamaDeployment", name, wish))

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
        return [p for p in self.pods.list() if p["metadata"]["labels"].get(names.LABEL_DEPLOYMENT) == name]

    def gate(self, name: str) -> dict[str, str]:
        (pod,) = self.pods_of(name)
        conditions = pod["status"].get("conditions", [])
        return next((one for one in conditions if one["type"] == names.READINESS_GATE), {})

    async def wait_gate(self, name: str, status: str, reason: str, *, seconds: float = 20) -> float:
        started = time.monotonic()
        while (self.gate(name).get("status"), self.gate(name).get("reason")) != (status, reason):
            if time.monotonic() - started > seconds:
                raise AssertionError(f"{name}: {self.gate(name)}")
            await asyncio.sleep(0.05)
        return time.monotonic() - started

    async def report(self, name: str, change: Callable[[dict[str, Any]], None] | None = None) -> None:
        """What the agent of the pod's node would say, with one fault."""
        (pod,) = self.pods_of(name)
        node, mine = pod["spec"]["nodeName"], f"{NAMESPACE}/{pod['metadata']['name']}"
        self.sequences[node] = self.sequences.get(node, 0) + 1
        served = (await self.status(name))["models"][0]
        used = max(1, int(served["planned"] / 2**20))
        gpu = {"uuid": f"GPU-{node}", "index": 0, "healthy": True, "totalMebibytes": 23034, "pods": [mine]}
        gpu["processes"] = [{"pid": 7, "usedMebibytes": used, "pod": mine}]
        model = {"pod": mine, "name": served["name"], "digest": served["digest"], "size": 1000, "sizeVram": 1000}
        status = {"sequence": self.sequences[node], "gpus": [gpu], "models": [model]}
        if change is not None:
            change(status)
        if await self.client.get(kinds.NODE_VRAM_REPORT, None, node) is None:
            made = {"apiVersion": names.API_VERSION, "kind": "NodeVRAMReport", "metadata": {"name": node}}
            await self.client.create(made)
        await self.client.patch(
            kinds.NODE_VRAM_REPORT, None, node, {"status": status}, content_type=MERGE_PATCH, subresource="status"
        )


@pytest.fixture
async def fleet(plane: SimulatedNodes, tmp_path: Path) -> AsyncIterator[Fleet]:
    client = await KubeClient.connect(kubeconfig=str(plane.plane.kubeconfig))
    async with (
        FakeRegistry() as registry,
        warm_sidecars(client) as (pods, config_maps),
        contextlib.AsyncExitStack() as stack,
    ):
        registry.add(image("chat"), "library/chat")
        _publish_large(registry, tmp_path)
        running = [asyncio.create_task(informer.run()) for informer in (pods, config_maps)]
        await asyncio.gather(pods.synced.wait(), config_maps.synced.wait())
        stack.enter_context(_operator(plane.plane.kubeconfig, tmp_path / "operator.log"))
        made = Fleet(client, registry.address, pods)
        yield made
        for wish in (await client.list(kinds.OLLAMA_DEPLOYMENT, namespace=NAMESPACE))[0]:
            metadata = wish["metadata"]
            await client.delete(kinds.OLLAMA_DEPLOYMENT, NAMESPACE, metadata["name"], uid=metadata["uid"])
        for report in (await client.list(kinds.NODE_VRAM_REPORT))[0]:
            metadata = report["metadata"]
            await client.delete(kinds.NODE_VRAM_REPORT, None, metadata["name"], uid=metadata["uid"])
        deadline = time.monotonic() + 30
        while pods.list() and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    await client.close()
    # Connections that were cut off are closed in the loop's next turns.
    await asyncio.sleep(0.25)


def _publish_large(registry: FakeRegistry, folder: Path) -> None:
    """Gemma 3 12B by its header: the rest of the file is never asked for."""
    path = folder / "large.gguf"
    write(path, "gemma3")
    with path.open("rb") as handle:
        header = handle.read(1 << 20)
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": registry.add_blob(header)}
    config = {
        "mediaType": "application/vnd.docker.container.image.v1+json",
        "digest": registry.add_blob(b"{}"),
        "size": 2,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": config,
        "layers": [{**layer, "size": path.stat().st_size}],
    }
    registry.add_manifest(json.dumps(manifest).encode(), repository="library/large", tag="latest")


@contextlib.contextmanager
def _operator(kubeconfig: Path, log: Path) -> Iterator[None]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ollama_fleet", "operator", "--fleet-image=fleet:1", "--namespace=default"]
    command += [f"--health-port={port}", f"--kubeconfig={kubeconfig}", "--log-format=text"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.parametrize("example", ["cpu-chat", "embeddings-beside-chat", "multi-tenant", "gitops"])
async def test_an_example_becomes_ready(fleet: Fleet, example: str) -> None:
    """With the test bed's model in place of theirs, which no registry here has."""
    documents = list(yaml.safe_load_all((ROOT / "examples" / example / "fleet.yaml").read_text()))
    wanted = []
    for document in documents:
        document["metadata"].setdefault("namespace", NAMESPACE)
        if document["kind"] == "Namespace":
            continue
        document["metadata"]["namespace"] = NAMESPACE
        document["metadata"]["name"] = f"{example}-{document['metadata']['name']}"
        if document["kind"] == "ModelSet":
            document["spec"]["source"] = {"registry": fleet.registry, "insecure": True}
            for model in document["spec"]["models"]:
                model["model"] = "chat"
        else:
            for reference in document["spec"]["modelSets"]:
                reference["name"] = f"{example}-{reference['name']}"
            wanted.append(document["metadata"]["name"])
        await fleet.client.apply(document)
    for name in wanted:
        await fleet.wait_reason(name, "AllWarm", seconds=60)


async def test_a_gpu_server_is_sized_placed_and_opens_by_the_report(fleet: Fleet) -> None:
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048, "parallel": 2})
    await fleet.deployment("chat")
    # No agent has ever reported: the sidecar's word counts.
    await fleet.wait_reason("chat", "AllWarm", seconds=60)
    status = await fleet.status("chat")
    memory = next(value for value in status["effective"] if value["name"] == "gpuMemory")
    assert memory["reason"].startswith("23034 MiB per GPU on gpu-")
    assert status["models"][0]["planned"] > 2**29
    (pod,) = fleet.pods_of("chat")
    assert pod["spec"]["nodeName"] in CARDS
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"

    await fleet.report("chat")
    await fleet.wait_gate("chat", "True", "Resident")
    while not fleet.gate("chat")["message"].endswith("in GPU memory by the driver's count"):
        await asyncio.sleep(0.05)


async def test_faults_of_the_gpu_close_the_gate_and_their_end_opens_it(fleet: Fleet) -> None:
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048})
    await fleet.deployment("chat")
    await fleet.wait_reason("chat", "AllWarm", seconds=60)
    for _ in range(2):
        await fleet.report("chat")
    await fleet.wait_gate("chat", "True", "Resident")

    def lost(status: dict[str, Any]) -> None:
        status["gpus"][0] |= {"healthy": False, "reason": "GPULost"}

    def evicted(status: dict[str, Any]) -> None:
        status["models"] = []

    for fault, reason in ((lost, "GPUUnhealthy"), (evicted, "NotResident")):
        await fleet.report("chat", fault)
        assert await fleet.wait_gate("chat", "False", reason) < 10
        await fleet.wait_reason("chat", reason)
        assert (await fleet.ready("chat"))["status"] == "False"
        await fleet.report("chat")
        await fleet.wait_gate("chat", "True", "Resident")
        await fleet.wait_reason("chat", "AllWarm")


async def test_a_bad_edit_opens_no_gate_that_a_report_closed(fleet: Fleet) -> None:
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048})
    await fleet.deployment("chat")
    await fleet.wait_reason("chat", "AllWarm", seconds=60)
    await fleet.report("chat")
    await fleet.wait_gate("chat", "True", "Resident")
    await fleet.report("chat", lambda status: status["gpus"][0].update(healthy=False, reason="GPULost"))
    await fleet.wait_gate("chat", "False", "GPUUnhealthy")
    await fleet.deployment("chat", modelSets=[{"name": "chat"}, {"name": "missing"}])
    await fleet.wait_reason("chat", "ModelSetMissing")
    await asyncio.sleep(1)
    assert fleet.gate("chat")["status"] == "False"


async def test_the_last_server_keeps_serving_on_the_cpu_and_says_so(fleet: Fleet) -> None:
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048})
    await fleet.deployment("chat")
    await fleet.wait_reason("chat", "AllWarm", seconds=60)
    for _ in range(2):
        await fleet.report("chat")
    await fleet.wait_gate("chat", "True", "Resident")
    await fleet.report("chat", lambda status: status["models"][0].update(sizeVram=200))
    await fleet.wait_gate("chat", "True", "CPUOffload")
    assert fleet.gate("chat")["message"].startswith("80 % of chat is in system memory")


async def test_a_model_that_fits_no_card_is_refused_and_one_that_fits_with_fewer_slots_is_served(fleet: Fleet) -> None:
    await fleet.model_set("large", {"name": "large", "contextLength": 32768, "parallel": 4})
    await fleet.deployment("large")
    await fleet.wait_reason("large", "AllWarm", seconds=60)
    parallel = next(v for v in (await fleet.status("large"))["effective"] if v["name"] == "OLLAMA_NUM_PARALLEL")
    assert (parallel["value"], parallel["reason"]) == ("3", "what fits of the 4 that are wished for")
    (before,) = fleet.pods_of("large")

    await fleet.deployment("large", tuning={"numParallel": 8})
    await fleet.wait_reason("large", "DoesNotFit")
    message = (await fleet.ready("large"))["message"]
    assert "large needs" in message
    assert "remove spec.tuning.numParallel" in message
    assert "1 servers of the last plan keep serving" in message
    (after,) = fleet.pods_of("large")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
