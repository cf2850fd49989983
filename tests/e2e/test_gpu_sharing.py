"""GPUs that are shared, split, or share the node's memory; and agents that may see less."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from testbed.fakes.gpus import Hardware, NodeGpus
from testbed.fakes.gpus.simulator import CONTEXT
from testbed.fakes.nvml import GIB, MIB, Driver, Gpu, Mig
from tests.e2e.conftest import AGENT_NAMESPACE, OPERATOR_NAMESPACE, Fleet, install, model_set
from tests.e2e.gpu_support import CHAT, condition, gpu_namespace, on_gpus, report, servers, shown

pytestmark = pytest.mark.e2e

NODE = "node-1"
PART = Mig("MIG-a", total=4864 * MIB)
SPLIT = Gpu("GPU-split", "NVIDIA A100-SXM4-40GB", total=40 * GIB, mig=(PART, None, replace(PART, uuid="MIG-b")))


@pytest.fixture
def node(fleet: Fleet) -> Iterator[NodeGpus]:
    """A node whose hardware the test changes."""
    found = fleet.gpus[NODE]
    before = found.hardware
    yield found
    found.show(before)


@pytest.fixture(scope="module")
def presets(fleet: Fleet) -> Iterator[Callable[[str], None]]:
    """Installs the agents with a preset; those that come later have again what they had."""
    yield lambda preset: install(fleet, agents=preset)
    install(fleet)


def test_servers_that_share_a_gpu_are_told_apart(fleet: Fleet, node: NodeGpus) -> None:
    node.show(replace(node.hardware, replicas=2))
    labels = fleet.get("node", NODE)["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-L4-SHARED"
    with gpu_namespace(fleet, "test_sharing") as namespace:
        fleet.apply(model_set(fleet, namespace, CHAT), on_gpus(namespace, node=NODE, replicas=3))
        fleet.wait_ready("chat", namespace)
        found = servers(fleet, namespace)
        status = report(fleet, NODE)
        assert sorted(len(gpu["pods"]) for gpu in status["gpus"]) == [1, 2]
        for one in found:
            (gpu,) = one.devices()
            assert one.environment("NVIDIA_VISIBLE_DEVICES") == gpu["uuid"]
            (process,) = one.processes()
            assert process in gpu["processes"]
            (model,) = one.models()
            assert process["usedMebibytes"] == round((model["sizeVram"] + CONTEXT) / MIB)
        for gpu in status["gpus"]:
            assert gpu["usedMebibytes"] == pytest.approx(sum(one["usedMebibytes"] for one in gpu["processes"]), abs=2)
        assert len({process["pid"] for one in found for process in one.processes()}) == 3


@pytest.mark.parametrize("resource", ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb"])
def test_instances_of_a_split_gpu(fleet: Fleet, node: NodeGpus, resource: str) -> None:
    node.show(Hardware(Driver((SPLIT,)), mixed=resource != "nvidia.com/gpu"))
    with gpu_namespace(fleet, "test_split") as namespace:
        wish = on_gpus(namespace, node=NODE, gpu={"resourceName": resource}, replicas=2)
        fleet.apply(model_set(fleet, namespace, CHAT), wish)
        print(f"{resource}: ready after {fleet.wait_ready('chat', namespace):.1f} s")
        found = servers(fleet, namespace)
        assert {one.environment("NVIDIA_VISIBLE_DEVICES") for one in found} == {"MIG-a", "MIG-b"}
        for one in found:
            (part,) = one.devices()
            assert part["uuid"] == one.environment("NVIDIA_VISIBLE_DEVICES")
            assert (part["product"], part["totalMebibytes"]) == (PART.product, 4864)
            (process,) = one.processes()
            assert part["processes"] == [process]
            assert part["usedMebibytes"] == process["usedMebibytes"]
        node.change(0, error=15)
        took = max(one.wait_gate("False", "GPUUnhealthy", seconds=10) for one in found)
        print(f"their GPU is lost: both gates closed after {took:.1f} s")


def test_a_gpu_that_shares_the_nodes_memory_says_so(fleet: Fleet, node: NodeGpus) -> None:
    node.show(Hardware(Driver((Gpu("GPU-gb10", "NVIDIA GB10", memory_code=3),))))
    shown(fleet, NODE, lambda status: "GPU-gb10" in _sources(status), "the GPU")
    status = report(fleet, NODE)
    assert _sources(status)["GPU-gb10"] == "system"
    (gpu,) = [one for one in status["gpus"] if one["uuid"] == "GPU-gb10"]
    assert gpu["totalMebibytes"] == status["memoryMebibytes"] > 0
    assert "nvidia.com/gpu.memory" not in fleet.get("node", NODE)["metadata"]["labels"]


def _sources(status: dict[str, Any]) -> dict[str, str]:
    return {gpu["uuid"]: gpu["memorySource"] for gpu in status["gpus"]}


def test_a_server_without_gpus_sees_none_although_its_image_asks_for_all(fleet: Fleet, namespace: str) -> None:
    wish = on_gpus(namespace)
    wish["spec"]["hardware"] = {"cpu": {"cores": "100m", "memory": "512Mi"}}
    fleet.apply(model_set(fleet, namespace, CHAT), wish)
    fleet.wait_ready("chat", namespace)
    (one,) = servers(fleet, namespace)
    assert one.environment("NVIDIA_VISIBLE_DEVICES") == "void"
    # Its gate rests on no report, which may come later.
    fleet.wait("its model is reported", lambda: [model["sizeVram"] for model in one.models()] == [0], seconds=30)
    assert one.processes() == one.devices() == []


def test_an_agent_that_may_not_see_processes_says_so_and_gates_open_without_them(
    fleet: Fleet, presets: Callable[[str], None]
) -> None:
    presets("standard")
    with gpu_namespace(fleet, "test_standard") as namespace:
        fleet.apply(model_set(fleet, namespace, CHAT), on_gpus(namespace))
        fleet.wait_ready("chat", namespace)
        (one,) = servers(fleet, namespace)
        (gpu,) = one.devices()
        assert [process["pod"] for process in gpu["processes"]] == [""]
        assert gpu["usedMebibytes"] > CONTEXT / MIB
        assert condition(one.report(), "Attributed") == ("False", "HostPIDOff")


def test_an_agent_in_a_restricted_namespace_knows_gpus_and_models(fleet: Fleet, presets: Callable[[str], None]) -> None:
    presets("minimal")
    restricted = "pod-security.kubernetes.io/enforce=restricted"
    label = ("label", "namespace", OPERATOR_NAMESPACE, "--dry-run=server", "--overwrite", restricted)
    assert "Warning" not in fleet.run(*label)
    assert AGENT_NAMESPACE not in fleet.run("get", "namespaces", "-l=app.kubernetes.io/component=agent")
    with gpu_namespace(fleet, "test_minimal") as namespace:
        fleet.apply(model_set(fleet, namespace, CHAT), on_gpus(namespace))
        fleet.wait_ready("chat", namespace)
        (one,) = servers(fleet, namespace)
        assert [model["name"] for model in one.models()] == ["chat"]
        status = one.report()
        assert one.devices() == []
        assert sum(gpu["usedMebibytes"] for gpu in status["gpus"]) > CONTEXT / MIB
        assert condition(status, "Ready") == ("True", "Observed")
        assert condition(status, "Attributed")[0] == "False"
