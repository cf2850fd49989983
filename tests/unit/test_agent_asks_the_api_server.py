"""The agent and the API server: its report, the pods of its node, the devices of claims."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import pytest

from ollama_fleet.agent.apiserver import Account, ApiFailed, ApiServer, address
from ollama_fleet.agent.podresources import ClaimedDevice
from ollama_fleet.agent.pods import Pod, Pods
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.kube.backoff import Backoff
from testbed.fakes.agent_api import REPORTS, AgentApi, pod

STATUS = NodeVRAMReportStatus(sequence=5)


@pytest.fixture
async def server() -> AsyncIterator[AgentApi]:
    async with AgentApi() as server:
        yield server


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("first\n")
    return file


@pytest.fixture
async def api(server: AgentApi, token: Path) -> AsyncIterator[ApiServer]:
    api = ApiServer.at(server.url, account=Account(token), ca_file=Path("/none"))
    yield api
    api.close()


def bound_token(name: str, uid: str) -> str:
    claims = json.dumps({"kubernetes.io": {"node": {"name": name, "uid": uid}}}).encode()
    return f"head.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.signature"


async def test_the_first_write_makes_the_report_with_its_node_as_owner(
    server: AgentApi, api: ApiServer, token: Path
) -> None:
    token.write_text(bound_token("node-1", "uid-of-the-node"))
    store = ReportStore(api, "node-1")
    await store.write(STATUS)
    await store.write(STATUS)
    path = f"{REPORTS}/node-1"
    status = ("PATCH", f"{path}/status")
    assert server.requests == [status, ("PATCH", path), status, status]
    (owner,) = server.reports["node-1"]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": "uid-of-the-node"}
    assert server.writes[-1]["sequence"] == 5
    assert store.generation == 1
    assert len(server.connections) == 1


@pytest.mark.parametrize("text", ["opaque", bound_token("node-2", "x"), "a.!!!.c", "a." + "e30" + ".c"])
async def test_without_a_token_of_this_node_there_is_no_owner(
    server: AgentApi, api: ApiServer, token: Path, text: str
) -> None:
    token.write_text(text)
    await ReportStore(api, "node-1").write(STATUS)
    assert "ownerReferences" not in server.reports["node-1"]["metadata"]


async def test_a_replaced_token_is_used_at_once(server: AgentApi, api: ApiServer, token: Path) -> None:
    store = ReportStore(api, "node-1")
    await store.write(STATUS)
    token.write_text("second")
    await store.write(STATUS)
    assert server.tokens[0] == "Bearer first"
    assert server.tokens[-1] == "Bearer second"


async def test_refusals_carry_the_servers_words(server: AgentApi, api: ApiServer) -> None:
    server.refuse = 403
    with pytest.raises(ApiFailed, match="told to refuse") as refused:
        await ReportStore(api, "node-1").write(STATUS)
    assert refused.value.status == 403


async def test_no_server_and_no_token(token: Path, tmp_path: Path) -> None:
    api = ApiServer.at("http://127.0.0.1:1", account=Account(token), ca_file=Path("/none"))
    with pytest.raises(ApiFailed) as failed:
        await ReportStore(api, "node-1").write(STATUS)
    assert failed.value.status == 0
    api = ApiServer.at("http://127.0.0.1:1", account=Account(tmp_path / "none"), ca_file=Path("/none"))
    with pytest.raises(ApiFailed, match="token"):
        await ReportStore(api, "node-1").write(STATUS)
    with pytest.raises(ApiFailed, match="No such file"):
        ApiServer.at("https://127.0.0.1:1", account=Account(token), ca_file=tmp_path / "ca.crt")


def test_the_address_is_what_the_kubelet_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ApiFailed):
        address()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    assert address() == "https://10.96.0.1:6443"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    assert address() == "https://[fd00::1]:6443"


async def until(pods: Pods, names: set[str]) -> None:
    async with asyncio.timeout(5):
        while {one.name for one in pods.by_uid.values()} != names:
            await asyncio.sleep(0.005)


async def until_watched(server: AgentApi) -> None:
    async with asyncio.timeout(5):
        while not server.watched:
            await asyncio.sleep(0.005)


async def test_pods_are_followed(server: AgentApi, api: ApiServer) -> None:
    server.pods = [pod("a", uid="1", ip="10.0.0.1"), pod("done", uid="2", phase="Succeeded")]
    pods = Pods(api, "node-1", backoff=Backoff(first=0.01, limit=0.01))
    running = asyncio.create_task(pods.run())
    await until(pods, {"team/a"})
    assert pods.by_uid["1"] == Pod("1", "team/a", "10.0.0.1")
    await asyncio.sleep(0.05)
    server.tell("ADDED", pod("b", uid="3"))
    await until(pods, {"team/a", "team/b"})
    server.tell("MODIFIED", pod("b", uid="3", ip="10.0.0.2"))
    server.tell("BOOKMARK", {"metadata": {"resourceVersion": "9"}})
    server.tell("DELETED", pod("a", uid="1"))
    await until(pods, {"team/b"})
    assert pods.by_uid["3"].ip == "10.0.0.2"
    server.tell("MODIFIED", pod("b", uid="3", phase="Failed"))
    await until(pods, set())
    server.pods = [pod("c", uid="4")]
    server.end_watches()
    await until(pods, {"team/c"})
    await asyncio.sleep(0.05)
    server.pods = [pod("d", uid="5")]
    server.tell("ERROR", {"code": 410, "message": "too old resource version"})
    await until(pods, {"team/d"})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_pods_stay_known_while_the_server_is_away(server: AgentApi, api: ApiServer) -> None:
    server.pods = [pod("a", uid="1")]
    pods = Pods(api, "node-1", backoff=Backoff(first=0.01, limit=0.01))
    async for _ in pods.follow():
        break
    pods.api = ApiServer.at("http://127.0.0.1:1", account=api.account, ca_file=Path("/none"))
    running = asyncio.create_task(pods.run())
    await asyncio.sleep(0.1)
    assert list(pods.by_uid) == ["1"]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Delays(Backoff):
    """What the pauses were for."""

    asked: ClassVar[list[int]] = []

    def delay(self, failures: int) -> float:
        self.asked.append(failures)
        return 0.001


async def test_a_server_that_refuses_to_watch_is_asked_less_and_less(server: AgentApi, api: ApiServer) -> None:
    server.refuse_watch = 429
    backoff = Delays()
    pods = Pods(api, "node-1", backoff=backoff)
    running = asyncio.create_task(pods.run())
    async with asyncio.timeout(5):
        while len(backoff.asked) < 4:
            await asyncio.sleep(0.005)
    assert backoff.asked[:4] == [1, 2, 3, 4]
    server.refuse_watch = 0
    await until_watched(server)
    server.tell("ADDED", pod("a", uid="1"))
    await until(pods, {"team/a"})
    server.refuse_watch = 429
    backoff.asked.clear()
    server.end_watches()
    async with asyncio.timeout(5):
        while len(backoff.asked) < 3:
            await asyncio.sleep(0.005)
    assert backoff.asked[:3] == [1, 1, 2], "the end of a watch, then refusals"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_uuids_of_claimed_devices_are_asked_for_once_a_minute(server: AgentApi, api: ApiServer) -> None:
    now = 0.0
    server.slices = [
        {
            "spec": {
                "driver": "gpu.nvidia.com",
                "pool": {"name": "node-1"},
                "devices": [
                    {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-a"}, "type": {"string": "gpu"}}},
                    {"name": "odd"},
                ],
            }
        }
    ]
    slices = Slices(api, "node-1", clock=lambda: now)
    known, unknown = (ClaimedDevice("gpu.nvidia.com", "node-1", name) for name in ("gpu-0", "gpu-9"))
    await slices.learn([])
    assert server.requests == []
    await slices.learn([known])
    assert slices.uuids == {known: "GPU-a"}
    for _ in range(5):
        await slices.learn([known, unknown])
    assert len(server.requests) == 1
    now = 61.0
    await slices.learn([known, unknown])
    await slices.learn([known, unknown])
    assert len(server.requests) == 2
