"""A driver that does not answer, one that stays away, and a loop that no longer turns."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ollama_fleet.agent.agent import Agent
from ollama_fleet.agent.apiserver import Account, ApiServer
from ollama_fleet.agent.gpu import Device, Memory, Reading, Sensors
from ollama_fleet.agent.nvml import NvmlFailed
from ollama_fleet.agent.pods import Pods
from ollama_fleet.agent.reader import GpuReader
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from ollama_fleet.telemetry.health import Heartbeat

UNINITIALIZED = 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Library:
    """One GPU; starting waits for ``answers``, and fails when ``refused`` or ``missing``."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.refused = False
        self.missing = False

    def start(self) -> tuple[str, int]:
        self.answers.wait()
        if self.missing:
            raise NvmlFailed(12, "NVML Shared Library Not Found")
        if self.refused:
            raise NvmlFailed(18, "mismatch")
        return "580", 1

    def read(self, index: int) -> Reading:
        if self.refused:
            raise NvmlFailed(UNINITIALIZED, "uninitialised")
        return Reading("GPU-a", (Device("GPU-a", index, "L4", Memory(4, 0, 0, 4)),), Sensors())


@pytest.fixture
def library() -> Iterator[Library]:
    made = Library()
    yield made
    made.answers.set()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_driver_that_does_not_answer_at_the_start_is_told_and_waited_for(library: Library, clock: Clock) -> None:
    reader = GpuReader(library, deadline=0.05, clock=clock)
    library.answers.clear()
    assert reader.read().problem == "the driver does not answer"
    clock.now += 60
    assert reader.read().problem == "the driver does not answer"
    library.answers.set()
    reader.deadline = 5.0
    view = reader.read()
    assert (view.driver, view.problem, len(view.devices)) == ("580", "", 1)


def load_driver(proc: Path) -> None:
    (proc / "driver" / "nvidia").mkdir(parents=True)
    (proc / "driver" / "nvidia" / "version").write_text("NVRM version: 580\n")


@pytest.fixture
def agent(library: Library, clock: Clock, tmp_path: Path) -> Agent:
    return start(library, clock, tmp_path)


def start(library: Library, clock: Clock, tmp_path: Path) -> Agent:
    (tmp_path / "meminfo").write_text("MemTotal: 8 kB\nMemAvailable: 4 kB\n")
    api = ApiServer.at("http://127.0.0.1:9", account=Account(tmp_path / "token"), ca_file=tmp_path)
    return Agent(
        GpuReader(library, clock=clock),
        ReportStore(api, "node-1"),
        Pods(api, "node-1"),
        Slices(api, "node-1"),
        proc=tmp_path,
        clock=clock,
        heartbeat=Heartbeat("the look at the GPUs", limit=30, clock=clock),
    )


async def test_a_loop_that_no_longer_turns_is_noticed(agent: Agent, clock: Clock) -> None:
    await agent.look()
    clock.now += 29
    assert agent.heartbeat.check() is None
    clock.now += 2
    assert agent.heartbeat.check() == "the look at the GPUs has not moved for 31 s"
    await agent.look()
    assert agent.heartbeat.check() is None
    await agent.settle()


async def test_a_driver_that_was_exchanged_needs_a_new_container(agent: Agent, library: Library, clock: Clock) -> None:
    await agent.look()
    library.refused = True
    await agent.look()
    await agent.look()
    clock.now += 119
    await agent.look()
    assert agent.driver_check() is None
    clock.now += 2
    assert agent.driver_check() == "the GPU driver has been out of reach for 121 s"
    library.refused = False
    clock.now += 10
    await agent.look()
    assert agent.driver_check() is None
    await agent.settle()


async def test_a_driver_that_never_worked_is_no_reason_to_restart(agent: Agent, library: Library, clock: Clock) -> None:
    library.refused = True
    await agent.look()
    clock.now += 3600
    await agent.look()
    assert agent.driver_check() is None
    await agent.settle()


async def test_a_driver_that_came_after_the_agent_needs_a_new_container_once(
    agent: Agent, library: Library, clock: Clock, tmp_path: Path
) -> None:
    library.missing = True
    for _ in range(3):
        await agent.look()
        clock.now += 3600
    assert agent.driver_check() is None, "a node without GPUs"
    load_driver(tmp_path)
    await agent.look()
    clock.now += 121
    await agent.look()
    assert agent.driver_check() == "the GPU driver has been out of reach for 121 s"
    again = start(library, clock, tmp_path)
    for _ in range(3):
        await again.look()
        clock.now += 3600
    assert again.driver_check() is None, "a container runtime that gives no library will not give one now"


async def test_a_driver_that_came_after_the_agent_and_answers_is_used(
    agent: Agent, library: Library, clock: Clock, tmp_path: Path
) -> None:
    library.missing = True
    await agent.look()
    load_driver(tmp_path)
    library.missing = False
    clock.now += 20
    await agent.look()
    clock.now += 3600
    await agent.look()
    assert agent.driver_check() is None
