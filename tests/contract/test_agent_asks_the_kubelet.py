"""The agent's gRPC against the real library, and the kubelet's messages against code generated from its definition."""

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_tools import protoc

from ollama_fleet.agent import kubelet
from ollama_fleet.agent.kubelet import KubeletFailed, call, pod_devices
from ollama_fleet.agent.podresources import LIST, ClaimedDevice, PodDevices, holders, parse_list
from ollama_fleet.agent.protobuf import Malformed

PROTO = Path(__file__).parents[1] / "support" / "podresources.proto"


@pytest.fixture(scope="session")
def messages(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("generated")
    assert protoc.main(["", f"-I{PROTO.parent}", f"--python_out={folder}", str(PROTO)]) == 0
    spec = importlib.util.spec_from_file_location("podresources_pb2", folder / "podresources_pb2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def answer(messages: ModuleType) -> Any:
    plain = messages.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["GPU-a", "GPU-b"])
    plain.topology.nodes.add(ID=1)
    shared = messages.ContainerDevices(resource_name="nvidia.com/gpu.shared", device_ids=["GPU-c::2"])
    instance = messages.ContainerDevices(resource_name="nvidia.com/mig-1g.5gb", device_ids=["MIG-d"])
    claim = messages.ClaimResource(driver_name="gpu.nvidia.com", pool_name="node-1", device_name="gpu-5", share_id="x")
    claim.cdi_devices.add(name="k8s.gpu.nvidia.com/device=gpu-5")
    dynamic = messages.DynamicResource(claim_name="c", claim_namespace="team", claim_resources=[claim])
    memory = messages.ContainerMemory(memory_type="memory", size=2**40)
    pods = {
        "first": [messages.ContainerResources(name="ollama", devices=[plain, instance], cpu_ids=[1, 2**33])],
        "second": [
            messages.ContainerResources(name="sidecar"),
            messages.ContainerResources(name="ollama", devices=[shared], memory=[memory]),
        ],
        "third": [messages.ContainerResources(name="ollama", dynamic_resources=[dynamic])],
        "none": [messages.ContainerResources(name="web", cpu_ids=[3])],
    }
    listed = [messages.PodResources(name=name, namespace="team", containers=found) for name, found in pods.items()]
    return messages.ListPodResourcesResponse(pod_resources=listed)


EXPECTED = (
    PodDevices("team/first", ("GPU-a", "GPU-b", "MIG-d")),
    PodDevices("team/second", ("GPU-c::2",)),
    PodDevices("team/third", (), (ClaimedDevice("gpu.nvidia.com", "node-1", "gpu-5"),)),
)

Handler = Callable[[bytes, Any], Awaitable[bytes]]
Serve = Callable[[Handler], Awaitable[Path]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    servers: list[grpc.aio.Server] = []

    async def start(handler: Handler) -> Path:
        socket = tmp_path / "kubelet.sock"
        server = grpc.aio.server()
        service, method = LIST.strip("/").split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(handler)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        server.add_insecure_port(f"unix:{socket}")
        await server.start()
        servers.append(server)
        return socket

    yield start
    for server in servers:
        await server.stop(None)


async def test_devices_of_pods_over_real_grpc(serve: Serve, answer: Any) -> None:
    async def listed(request: bytes, _: Any) -> bytes:
        assert request == b""
        return bytes(answer.SerializeToString())

    assert await pod_devices(await serve(listed)) == EXPECTED


async def test_an_answer_larger_than_the_flow_control_window(serve: Serve, messages: ModuleType) -> None:
    devices = messages.ContainerDevices(resource_name="nvidia.com/gpu", device_ids=["GPU-a"])
    container = messages.ContainerResources(name="ollama", devices=[devices])
    pods = [messages.PodResources(name=f"pod-{n}", namespace="n" * 63, containers=[container]) for n in range(4000)]
    large = messages.ListPodResourcesResponse(pod_resources=pods).SerializeToString()

    async def listed(_: bytes, __: Any) -> bytes:
        return bytes(large)

    assert len(large) > 4 * 65535
    assert len(await pod_devices(await serve(listed))) == 4000


async def test_a_refusal_says_why(serve: Serve) -> None:
    async def refuse(_: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")
        return b""

    with pytest.raises(KubeletFailed, match="gRPC status 8: rejected by rate limit"):
        await pod_devices(await serve(refuse))


async def test_an_unknown_method(serve: Serve) -> None:
    async def nothing(_: bytes, __: Any) -> bytes:
        return b""

    socket = await serve(nothing)
    with pytest.raises(KubeletFailed, match="gRPC status 12"):
        await call(socket, "/v1.PodResourcesLister/Other", b"")


async def test_a_kubelet_that_does_not_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(_: bytes, __: Any) -> bytes:
        await asyncio.sleep(60)
        return b""

    monkeypatch.setattr(kubelet, "_TIMEOUT_SECONDS", 0.2)
    with pytest.raises(KubeletFailed, match="TimeoutError"):
        await pod_devices(await serve(hang))


async def test_too_much_is_not_read(serve: Serve, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def listed(_: bytes, __: Any) -> bytes:
        return bytes(answer.SerializeToString())

    monkeypatch.setattr(kubelet, "_LIMIT_BYTES", 100)
    with pytest.raises(KubeletFailed, match="more than 100 bytes"):
        await pod_devices(await serve(listed))


async def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(KubeletFailed, match="No such file"):
        await pod_devices(tmp_path / "kubelet.sock")


async def test_a_server_of_something_else(tmp_path: Path) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_unix_server(greet, tmp_path / "kubelet.sock"):
        with pytest.raises(KubeletFailed):
            await pod_devices(tmp_path / "kubelet.sock")


def test_broken_messages_are_refused(answer: Any) -> None:
    whole = answer.SerializeToString()
    assert parse_list(whole) == EXPECTED
    refused = 0
    for size in range(len(whole)):
        try:
            parse_list(whole[:size])
        except Malformed:
            refused += 1
    assert refused > len(whole) / 2


def test_every_form_of_id_leads_to_its_device() -> None:
    slices = {ClaimedDevice("gpu.nvidia.com", "node-1", "gpu-5"): "GPU-e"}
    sharing = PodDevices("team/fourth", ("GPU-c::0",))
    assert holders([*EXPECTED, sharing], slices) == {
        "GPU-a": ("team/first",),
        "GPU-b": ("team/first",),
        "MIG-d": ("team/first",),
        "GPU-c": ("team/fourth", "team/second"),
        "GPU-e": ("team/third",),
    }
    assert "GPU-e" not in holders(EXPECTED, {})
