"""GPU deployments on simulated nodes without agents: examples, sizes, and what does not fit.

Scheduler, API server and operator are real; kubelets and sidecars are played.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml

from testbed.fakes.registry import FakeRegistry
from testbed.kwok import SimulatedNodes
from testbed.paths import ROOT
from tests.support.gpu_fleet import NAMESPACE, GpuFleet, gpu_fleet
from tests.support.sparse_models import write

pytestmark = pytest.mark.cluster

CARDS = {"gpu-a": ("NVIDIA-L4", 23034), "gpu-b": ("NVIDIA-L4", 23034), "gpu-large": ("NVIDIA-A100-SXM4-80GB", 81920)}


STANDS_FOR = {("embeddings-beside-chat", "chat"): "large"}
"""Where the test bed's model will not do: its heads are too short for a quantised cache."""


@pytest.fixture(scope="module")
def plane(kwok_cluster: SimulatedNodes) -> Iterator[SimulatedNodes]:
    for number, (name, (product, memory)) in enumerate(CARDS.items()):
        labels = {"nvidia.com/gpu.product": product, "nvidia.com/gpu.memory": str(memory)}
        kwok_cluster.add(name, number=210 + number, resources={"nvidia.com/gpu": "2"}, labels=labels)
    yield kwok_cluster
    for name in CARDS:
        kwok_cluster.remove(name)


@pytest.fixture
async def fleet(plane: SimulatedNodes, tmp_path: Path) -> AsyncIterator[GpuFleet]:
    async with gpu_fleet(plane, tmp_path, {}) as made:
        _publish_large(made.registry, tmp_path)
        yield made


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


@pytest.mark.parametrize("example", ["cpu-chat", "embeddings-beside-chat", "multi-tenant", "gitops"])
async def test_an_example_becomes_ready(fleet: GpuFleet, example: str) -> None:
    """With models of the test bed in place of theirs, which no registry here has."""
    documents = list(yaml.safe_load_all((ROOT / "examples" / example / "fleet.yaml").read_text()))
    wanted = []
    for document in documents:
        document["metadata"].setdefault("namespace", NAMESPACE)
        if document["kind"] == "Namespace":
            continue
        document["metadata"]["namespace"] = NAMESPACE
        document["metadata"]["name"] = f"{example}-{document['metadata']['name']}"
        if document["kind"] == "ModelSet":
            document["spec"]["source"] = {"registry": fleet.registry.address, "insecure": True}
            for model in document["spec"]["models"]:
                model["model"] = STANDS_FOR.get((example, model["name"]), "chat")
        else:
            for reference in document["spec"]["modelSets"]:
                reference["name"] = f"{example}-{reference['name']}"
            wanted.append(document["metadata"]["name"])
        await fleet.client.apply(document)
    for name in wanted:
        await fleet.wait_reason(name, "AllWarm", seconds=60)


async def test_a_gpu_server_is_sized_placed_and_without_agents_opens_by_the_sidecars_word(fleet: GpuFleet) -> None:
    await fleet.model_set("chat", {"name": "chat", "contextLength": 2048, "parallel": 2})
    await fleet.deployment("chat")
    await fleet.wait_reason("chat", "AllWarm", seconds=60)
    status = await fleet.status("chat")
    memory = next(value for value in status["effective"] if value["name"] == "gpuMemory")
    assert memory["reason"].startswith("22573 MiB per GPU on gpu-")
    assert status["models"][0]["planned"] > 2**29
    (pod,) = fleet.pods_of("chat")
    assert pod["spec"]["nodeName"] in CARDS
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    gate = fleet.gate(pod)
    assert (gate["status"], gate["reason"], gate["message"]) == ("True", "Resident", "1/1 models in memory")


async def test_what_fits_no_card_is_refused_and_what_fits_with_fewer_slots_is_served(
    fleet: GpuFleet,
) -> None:
    await fleet.model_set("large", {"name": "large", "contextLength": 32768, "parallel": 4})
    await fleet.deployment("large", tuning={"kvCacheType": "f16"})
    await fleet.wait_reason("large", "AllWarm", seconds=60)
    parallel = next(v for v in (await fleet.status("large"))["effective"] if v["name"] == "OLLAMA_NUM_PARALLEL")
    assert (parallel["value"], parallel["reason"]) == ("3", "what fits of the 4 that are wished for")
    (before,) = fleet.pods_of("large")

    await fleet.deployment("large", tuning={"kvCacheType": "f16", "numParallel": 8})
    await fleet.wait_reason("large", "DoesNotFit")
    message = (await fleet.ready("large"))["message"]
    assert "large needs" in message
    assert "spec.tuning.numParallel 3 would make it fit" in message
    assert "1 servers of the last plan keep serving" in message
    (after,) = fleet.pods_of("large")
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
