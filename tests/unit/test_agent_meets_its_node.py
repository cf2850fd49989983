"""What an agent knows before its first report."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_fleet.agent.agent import Agent
from ollama_fleet.agent.apiserver import Account, ApiServer
from ollama_fleet.agent.gpu import Reading
from ollama_fleet.agent.pods import Pods
from ollama_fleet.agent.reader import GpuReader
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from testbed.fakes.agent_api import AgentApi, pod


class NoGpus:
    def start(self) -> tuple[str, int]:
        return "580", 0

    def read(self, index: int) -> Reading:
        raise AssertionError(index)


@pytest.fixture
async def server() -> AsyncIterator[AgentApi]:
    async with AgentApi() as found:
        yield found


@pytest.fixture
async def agent(server: AgentApi, tmp_path: Path) -> AsyncIterator[Agent]:
    (tmp_path / "token").write_text("secret")
    api = ApiServer.at(server.url, account=Account(tmp_path / "token"), ca_file=tmp_path / "none")
    reader = GpuReader(NoGpus())
    socket = tmp_path / "no-kubelet.sock"
    yield Agent(reader, ReportStore(api, "node-1"), Pods(api, "node-1"), Slices(api, "node-1"), socket=socket)
    api.close()
    # A connection that is cut off is closed in the loop's next turn.
    await asyncio.sleep(0)


async def test_it_waits_for_the_pods_of_its_node(server: AgentApi, agent: Agent) -> None:
    server.pods = [pod("chat-0", uid="1")]
    following = asyncio.create_task(agent.pods.run())
    await agent.meet()
    assert list(agent.pods.by_uid) == ["1"]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_it_does_not_wait_for_ever(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_fleet.agent.agent.FIRST_SECONDS", 0.05)
    async with asyncio.timeout(2):
        await agent.meet()
    assert agent.pods.by_uid == {}
