"""What an agent knows before its first report."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_fleet.agent.agent import FIRST_SECONDS, Agent
from ollama_fleet.agent.apiserver import Account, ApiServer
from ollama_fleet.agent.gpu import Device, GpuProcess, Memory, Reading, Sensors
from ollama_fleet.agent.pods import Pods
from ollama_fleet.agent.reader import GpuReader
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from ollama_fleet.kube.backoff import Backoff
from ollama_fleet.telemetry.health import Heartbeat
from testbed.fakes.agent_api import AgentApi, pod

DIGEST = f"sha256:{'a' * 64}"
WARM = ModelState(name="chat", phase=ModelPhase.WARM, digest=DIGEST, size=9, size_vram=9)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class OneGpu:
    """A driver that answers once ``answers`` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.processes: tuple[GpuProcess, ...] = ()

    def start(self) -> tuple[str, int]:
        self.answers.wait()
        return "580", 1

    def read(self, index: int) -> Reading:
        return Reading("GPU-0", (Device("GPU-0", index, "L4", Memory(9, 0, 9, 0), self.processes),), Sensors())


@pytest.fixture
async def server() -> AsyncIterator[AgentApi]:
    async with AgentApi() as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def driver() -> Iterator[OneGpu]:
    made = OneGpu()
    yield made
    made.answers.set()


@pytest.fixture
async def agent(server: AgentApi, driver: OneGpu, clock: Clock, tmp_path: Path) -> AsyncIterator[Agent]:
    (tmp_path / "token").write_text("secret")
    api = ApiServer.at(server.url, account=Account(tmp_path / "token"), ca_file=tmp_path / "none")
    made = Agent(
        GpuReader(driver, deadline=0.05, clock=clock),
        ReportStore(api, "node-1"),
        Pods(api, "node-1", backoff=Backoff(first=0.01, limit=0.01)),
        Slices(api, "node-1"),
        socket=tmp_path / "no-kubelet.sock",
        clock=clock,
        heartbeat=Heartbeat("the look at the GPUs", limit=30, clock=clock),
    )
    yield made
    made.sidecars.close()
    api.close()
    # A connection that is cut off is closed in the loop's next turn.
    await asyncio.sleep(0)


@pytest.fixture
async def following(agent: Agent) -> AsyncIterator[None]:
    """It follows the pods of its node."""
    task = asyncio.create_task(agent.pods.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def looked(agent: Agent, server: AgentApi) -> dict[str, Any] | None:
    """The newest status after one more look."""
    await agent.look()
    await agent.settle()
    return server.writes[-1] if server.writes else None


@pytest.mark.usefixtures("following")
async def test_it_waits_for_the_pods_of_its_node(server: AgentApi, agent: Agent) -> None:
    server.pods = [pod("chat-0", uid="1")]
    await agent.meet()
    assert list(agent.pods.by_uid) == ["1"]


async def test_it_does_not_wait_for_ever(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_fleet.agent.agent.FIRST_SECONDS", 0.05)
    async with asyncio.timeout(2):
        await agent.meet()
    assert agent.pods.by_uid == {}


async def test_it_reports_nothing_before_it_knows_the_pods_and_lives_on(
    server: AgentApi, agent: Agent, clock: Clock
) -> None:
    """The API server refuses to list and takes writes: models of pods that nobody asked have not left memory."""
    server.refuse_list = 429
    task = asyncio.create_task(agent.pods.run())
    for _ in range(10):
        clock.now += 29
        assert await looked(agent, server) is None
        assert agent.heartbeat.check() is None
        assert agent.driver_check() is None
    server.refuse_list = 0
    async with asyncio.timeout(5):
        await agent.pods.listed.wait()
    clock.now += 1
    assert await looked(agent, server) is not None
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.mark.usefixtures("following")
async def test_of_a_pod_that_does_not_answer_it_says_nothing(server: AgentApi, agent: Agent, clock: Clock) -> None:
    answers = [SidecarState(sequence=1, config_hash="x", ready=True, models=(WARM,)).to_wire()]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(answers[0]) if answers else web.Response(status=503)

    app = web.Application()
    app.router.add_get("/fleet/v1/state", answer)
    async with TestServer(app) as sidecar:
        agent.sidecars.port = sidecar.port or 0
        agent.sidecars.clock = clock
        server.pods = [pod("chat-0", uid="1", ip="127.0.0.1"), pod("chat-1", uid="2", ip="127.0.0.9")]
        await agent.meet()
        found = await looked(agent, server)
        assert found is not None
        assert [model["pod"] for model in found["models"]] == found["heard"] == ["team/chat-0"]
        answers.clear()
        clock.now += 9
        await agent.ask_sidecars()
        found = await looked(agent, server)
        assert found is not None
        assert (found["models"], found["heard"]) == ([], [])


@pytest.mark.usefixtures("following")
async def test_a_driver_that_takes_its_time_is_waited_for(
    server: AgentApi, agent: Agent, driver: OneGpu, clock: Clock
) -> None:
    driver.answers.clear()
    await agent.meet()
    assert await looked(agent, server) is None
    driver.answers.set()
    agent.reader.deadline = 5
    found = await looked(agent, server)
    assert found is not None
    assert [gpu["uuid"] for gpu in found["gpus"]] == ["GPU-0"]


@pytest.mark.usefixtures("following")
async def test_a_driver_that_stays_silent_is_told(server: AgentApi, agent: Agent, driver: OneGpu, clock: Clock) -> None:
    driver.answers.clear()
    await agent.meet()
    clock.now += FIRST_SECONDS
    found = await looked(agent, server)
    assert found is not None
    assert [(one["type"], one["reason"]) for one in found["conditions"]] == [
        ("Ready", "DriverFailed"),
        ("Attributed", "KubeletUnreachable"),
    ]


@pytest.mark.usefixtures("following")
async def test_a_kubelet_that_was_not_heard_yet_is_not_said_to_have_told(server: AgentApi, agent: Agent) -> None:
    await agent.pods.listed.wait()
    found = await looked(agent, server)
    assert found is not None
    (attributed,) = [one for one in found["conditions"] if one["type"] == "Attributed"]
    assert (attributed["status"], attributed["message"]) == ("False", "the kubelet has not answered yet")


@pytest.mark.usefixtures("following")
async def test_a_number_that_a_process_of_another_pod_gets_is_looked_at_anew(
    server: AgentApi, agent: Agent, driver: OneGpu, clock: Clock, tmp_path: Path
) -> None:
    uids = {"chat-0": "0b5a3f4e-3c43-4e0e-9d3c-0a8f0c1d2e3f", "chat-1": "1b5a3f4e-3c43-4e0e-9d3c-0a8f0c1d2e3f"}
    server.pods = [pod(name, uid=uid) for name, uid in uids.items()]
    await agent.meet()
    agent.proc, agent._host, agent.reader.deadline = tmp_path, True, 5
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_text("llama-server")

    async def seen(holder: str | None) -> list[str]:
        driver.processes = (GpuProcess(7, 2**20),) if holder else ()
        if holder:
            (tmp_path / "7" / "cgroup").write_text(f"0::/kubepods/pod{uids[holder]}/{'c' * 64}")
        clock.now += 60
        found = await looked(agent, server)
        assert found is not None
        return [process["pod"] for process in found["gpus"][0]["processes"]]

    assert await seen("chat-0") == ["team/chat-0"]
    assert await seen(None) == []
    assert await seen("chat-1") == ["team/chat-1"]
