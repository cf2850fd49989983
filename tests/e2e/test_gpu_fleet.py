"""Servers on GPUs: scheduler, kubelet, allocation, agent, operator and Ollama are real; only the GPUs are played."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.fakes.gpus.simulator import CONTEXT
from testbed.fakes.nvml import GIB, MIB, Process, Xid
from tests.e2e.conftest import AGENT_NAMESPACE, Fleet, model_set
from tests.e2e.gpu_support import (
    CHAT,
    Server,
    condition,
    gpu_namespace,
    on_gpus,
    process_of,
    program,
    report,
    servers,
    shown,
)
from tests.e2e.test_first_light import tokens

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def served(fleet: Fleet) -> Iterator[list[Server]]:
    """Two servers, on a node each."""
    with gpu_namespace(fleet, "test_gpus") as namespace:
        fleet.apply(model_set(fleet, namespace, CHAT), on_gpus(namespace, replicas=2))
        print(f"\ntwo servers on GPUs: apply to Ready {fleet.wait_ready('chat', namespace):.1f} s")
        yield servers(fleet, namespace)


@pytest.fixture
def server(served: list[Server]) -> Server:
    """One of the two, in service."""
    served[0].wait_gate("True", "Resident")
    return served[0]


def test_the_report_tells_gpu_pod_process_and_model(served: list[Server]) -> None:
    assert {one.node for one in served} == {"node-1", "node-2"}
    for one in served:
        (gpu,) = one.devices()
        # What the kubelet gave the container is what the report says.
        assert one.environment("NVIDIA_VISIBLE_DEVICES") == gpu["uuid"]
        (model,) = one.models()
        assert model["size"] == model["sizeVram"] > MIB
        (process,) = one.processes()
        assert program(process["pid"]) == "llama-server"
        assert process["weights"] == model["weights"]
        assert process["usedMebibytes"] == gpu["usedMebibytes"] == round((model["sizeVram"] + CONTEXT) / MIB)
        idle = [other for other in one.report()["gpus"] if other["uuid"] != gpu["uuid"]]
        assert [(other["pods"], other["processes"], other["usedMebibytes"]) for other in idle] == [([], [], 0)]
        assert one.gate() == ("True", "Resident")
        assert "in GPU memory by the node's report" in one.condition("ollamafleet.io/vram-resident")["message"]
        assert condition(one.report(), "Attributed") == ("True", "PodsKnown")


def test_the_scheduler_counts_gpus(fleet: Fleet, served: list[Server]) -> None:
    used = {one.devices()[0]["uuid"] for one in served}
    with gpu_namespace(fleet, "test_scheduler") as namespace:
        fleet.apply(model_set(fleet, namespace, CHAT), on_gpus(namespace, replicas=3))
        fleet.wait("two more servers have GPUs", lambda: sum(map(_ready, servers(fleet, namespace))) == 2, seconds=90)
        pods = fleet.pods_of(namespace, "g0")
        pending = [pod for pod in pods if pod["status"]["phase"] == "Pending" and "nodeName" not in pod["spec"]]
        assert len(pending) == 1
        assert "Insufficient nvidia.com/gpu" in json.dumps(pending[0]["status"]["conditions"])
        more = {gpu["uuid"] for one in servers(fleet, namespace) for gpu in one.devices()}
        assert more | used == {gpu.uuid for one in fleet.gpus.values() for gpu in one.hardware.driver.gpus}


def _ready(one: Server) -> bool:
    return one.condition("Ready").get("status") == "True"


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "lost": ({"error": 15}, "GPULost"),
    "hangs": ({"hang_seconds": 60.0}, "Unresponsive"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sick_gpu_closes_the_gate_within_ten_seconds(fleet: Fleet, server: Server, fault: str) -> None:
    changes, reason = FAULTS[fault]
    node = fleet.gpus[server.node]
    index = server.devices()[0]["index"]
    before = node.hardware.driver.gpus[index]
    node.change(index, **changes)
    try:
        started = time.monotonic()
        server.wait_gate("False", "GPUUnhealthy", seconds=10)
        closed = time.monotonic() - started
        assert reason in server.condition("ollamafleet.io/vram-resident")["message"]
        fleet.wait("it leaves the Service", lambda: not _ready(server), seconds=10)
        away = time.monotonic() - started
        healthy = {gpu["index"]: gpu["healthy"] for gpu in server.report()["gpus"]}
        assert healthy == {index: False, 1 - index: True}
        assert condition(server.report(), "Ready") == ("False", "GPUUnhealthy")
        # Of the deployment: it says what is wrong with one of its two servers.
        fleet.wait_reason("od", "chat", server.namespace, "GPUUnhealthy", seconds=10)
    finally:
        node.change(index, **{name: getattr(before, name) for name in changes})
    back = server.wait_gate("True", "Resident")
    print(f"{fault}: gate closed after {closed:.1f} s, pod not ready after {away:.1f} s, open again {back:.1f} s")


def test_an_error_of_the_gpu_counts_until_the_driver_is_reloaded(fleet: Fleet, server: Server) -> None:
    node, index = fleet.gpus[server.node], server.devices()[0]["index"]
    node.set_driver(xids=(Xid(serial=1, gpu=index, code=31),))
    node.set_driver(xids=(Xid(serial=1, gpu=index, code=31), Xid(serial=2, gpu=index, code=79)))
    print(f"XID 79: gate closed after {server.wait_gate('False', 'GPUUnhealthy', seconds=10):.1f} s")
    assert "XID 79" in server.condition("ollamafleet.io/vram-resident")["message"]
    fleet.wait("the node offers one GPU less", lambda: allocatable(fleet, server.node) == "1", seconds=10)
    node.reload_driver(xids=())
    print(f"driver reloaded: gate open after {server.wait_gate('True', 'Resident'):.1f} s")
    fleet.wait("the node offers both GPUs", lambda: allocatable(fleet, server.node) == "2", seconds=10)


def allocatable(fleet: Fleet, node: str) -> str:
    """GPUs that the node offers."""
    found = fleet.get("node", node)["status"]["allocatable"]
    return str(found["nvidia.com/gpu"])


def test_a_silent_fall_back_to_the_cpu_takes_the_server_out_of_service(
    fleet: Fleet, served: list[Server], server: Server
) -> None:
    """CUDA does not start any more, as in containers that lost their devices; the driver sees nothing wrong."""
    node = fleet.gpus[server.node]
    node.set_driver(cuda_code=999)
    (process,) = server.processes()
    os.kill(process["pid"], signal.SIGKILL)
    started = time.monotonic()
    # Ollama loads the model again when it is asked for.
    assert any(line.get("response") for line in tokens(server.url, count=4))
    server.wait_gate("False", "CPUOffload", seconds=30)
    print(f"silent fall-back: gate closed after {time.monotonic() - started:.1f} s")
    assert [(model["sizeVram"], model["size"] > 0) for model in server.models()] == [(0, True)]
    assert server.processes() == []
    assert all(gpu["healthy"] for gpu in server.report()["gpus"])
    fleet.wait("it leaves the Service", lambda: not _ready(server), seconds=10)
    assert served[1].gate() == ("True", "Resident")
    node.set_driver(cuda_code=0)
    pod = fleet.get("pod", server.name, server.namespace)
    os.kill(process_of(pod, "--model"), signal.SIGKILL)
    assert any(line.get("response") for line in tokens(server.url, count=4))
    print(f"CUDA works again: gate open after {server.wait_gate('True', 'Resident'):.1f} s")


def test_memory_that_nobody_knows_is_reported_and_blamed_on_no_pod(fleet: Fleet, served: list[Server]) -> None:
    one = served[1]
    node, (gpu,) = fleet.gpus[one.node], one.devices()
    before = node.hardware.driver.gpus[gpu["index"]]
    mine = one.processes()
    foreign = Process(os.getpid(), 9 * GIB)
    node.change(gpu["index"], used=9 * GIB, processes=(foreign,))
    took = shown(one.fleet, one.node, lambda status: _used(status, gpu) > 9 * 1024, "foreign memory", seconds=10)
    print(f"foreign process: reported after {took:.1f} s")
    (now,) = one.devices()
    strangers = [process for process in now["processes"] if process["pid"] == os.getpid()]
    assert [(process["pod"], process["usedMebibytes"]) for process in strangers] == [("", 9 * 1024)]
    assert one.processes() == mine
    assert now["freeMebibytes"] == gpu["freeMebibytes"] - 9 * 1024
    assert one.gate() == ("True", "Resident")
    node.change(gpu["index"], used=before.used, processes=before.processes)
    shown(one.fleet, one.node, lambda status: _used(status, gpu) == gpu["usedMebibytes"], "it is gone", seconds=10)


def _used(status: dict[str, Any], gpu: dict[str, Any]) -> int:
    return next(int(one["usedMebibytes"]) for one in status["gpus"] if one["uuid"] == gpu["uuid"])


def test_a_killed_agent_comes_back_and_counts_on(fleet: Fleet, served: list[Server]) -> None:
    one = served[1]
    before = one.report()
    (agent,) = [pod for pod in fleet.get_all("pod", AGENT_NAMESPACE) if pod["spec"]["nodeName"] == one.node]
    os.kill(process_of(agent, "agent"), signal.SIGKILL)
    took = shown(fleet, one.node, lambda status: status["sequence"] > before["sequence"] + 1, "a new agent", seconds=60)
    print(f"killed agent: reports again after {took:.1f} s")
    assert one.gate() == ("True", "Resident")
    assert report(fleet, one.node)["gpus"] == before["gpus"]
