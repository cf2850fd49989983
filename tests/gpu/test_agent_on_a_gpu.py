"""What the agent reads of a real GPU, against what a process of the test takes of it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pynvml
import pytest

from benchmarks.report import cpu_seconds
from ollama_fleet.agent.gpu import Device
from ollama_fleet.agent.nvml import Nvml
from testbed.agent_process import agent_process, stand_in_proc
from testbed.fakes.agent_api import AgentApi, pod
from testbed.fakes.kubelet import FakeKubelet
from testbed.fakes.nvml import GIB, MIB
from tests.gpu.conftest import Hold

pytestmark = pytest.mark.gpu

UID = "0b5a3f4e-3c43-4e0e-9d3c-0a8f0c1d2e3f"
HELD = 3 * GIB
CONTEXT = GIB
"""More than any driver takes for a process."""


def device(nvml: Nvml) -> Device:
    return nvml.read(0).devices[0]


def test_memory_adds_up_and_the_first_call_counts_the_reserve_as_used(nvml: Nvml) -> None:
    memory = device(nvml).memory
    assert memory.source == "nvml"
    assert memory.total == memory.reserved + memory.used + memory.free
    assert 0 < memory.reserved < 4 * GIB
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    first = pynvml.nvmlDeviceGetMemoryInfo(handle)
    print(f"v2: {memory}; v1: total {first.total} used {first.used} free {first.free}")
    assert first.total == memory.total
    assert first.used == pytest.approx(memory.used + memory.reserved, abs=64 * MIB)


def test_a_process_is_seen_with_its_bytes(nvml: Nvml, hold: Hold) -> None:
    before = device(nvml)
    pid = hold(HELD // MIB)
    seen = device(nvml)
    (mine,) = [one for one in seen.processes if one.pid == pid]
    assert mine.used is not None
    assert HELD < mine.used < HELD + CONTEXT
    grown = seen.memory.used - before.memory.used
    print(f"allocated {HELD / MIB:.0f} MiB; by process {mine.used / MIB:.1f}; by GPU {grown / MIB:.1f}")
    assert grown == pytest.approx(mine.used, abs=256 * MIB)
    other = hold(0)
    (bare,) = [one for one in device(nvml).processes if one.pid == other]
    assert bare.used is not None
    print(f"a context alone: {bare.used / MIB:.1f} MiB")
    assert 0 < bare.used < CONTEXT


def test_sensors_of_a_data_centre_gpu(nvml: Nvml) -> None:
    reading = nvml.read(0)
    print(reading.sensors, reading.xids, reading.devices[0].product)
    assert reading.sensors.celsius is not None
    assert 10 < reading.sensors.celsius < 110
    assert reading.sensors.watts is not None
    assert reading.sensors.watts > 1
    assert not reading.sensors.remap_failed
    assert reading.uuid.startswith("GPU-")


@pytest.fixture
async def agent(nvml: Nvml, tmp_path: Path) -> AsyncIterator[tuple[AgentApi, Path, int]]:
    """The agent's process, the API server that it writes to, and the directory that is ``/proc`` for it."""
    proc = stand_in_proc(tmp_path)
    given = {"team/chat-0": [device(nvml).uuid]}
    async with FakeKubelet(tmp_path / "kubelet.sock", given) as kubelet, AgentApi() as api:
        api.pods = [pod("chat-0", uid=UID)]
        async with agent_process(tmp_path, api, kubelet, proc=proc) as (process, _):
            yield api, proc, process.pid


async def until(api: AgentApi, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 10.0) -> dict[str, Any]:
    async with asyncio.timeout(seconds):
        while not (api.writes and holds(api.writes[-1])):
            await asyncio.sleep(0.02)
    return api.writes[-1]


def used(status: dict[str, Any]) -> int:
    return int(status["gpus"][0]["usedMebibytes"])


async def test_the_agent_reports_a_pod_s_memory_within_two_writes(
    agent: tuple[AgentApi, Path, int], hold: Hold
) -> None:
    api, proc, _ = agent
    first = await until(api, lambda status: bool(status["gpus"]))
    assert first["gpus"][0]["healthy"]
    assert first["gpus"][0]["pods"] == ["team/chat-0"]
    pid = await asyncio.to_thread(hold, HELD // MIB)
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "cgroup").write_text(f"0::/kubepods/burstable/pod{UID}/{'c' * 64}\n")
    started = time.monotonic()
    found = await until(api, lambda status: used(status) - used(first) >= HELD // MIB)
    print(f"reported {time.monotonic() - started:.1f} s after the allocation")
    found = await until(api, lambda status: [one["pod"] for one in status["gpus"][0]["processes"]] == ["team/chat-0"])
    (process,) = found["gpus"][0]["processes"]
    assert HELD // MIB < process["usedMebibytes"] < (HELD + CONTEXT) // MIB
    assert {one["type"]: one["status"] for one in found["conditions"]} == {"Ready": "True", "Attributed": "True"}


async def test_what_the_agent_costs(agent: tuple[AgentApi, Path, int]) -> None:
    """Printed: memory depends on the Python that runs it, so its bound is loose. Idle means two writes a minute."""
    api, _, pid = agent
    await until(api, lambda status: bool(status["gpus"]))
    await asyncio.sleep(5)
    before, writes, started = cpu_seconds(pid), len(api.writes), time.monotonic()
    await asyncio.sleep(30)
    percent = 100 * (cpu_seconds(pid) - before) / (time.monotonic() - started)
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
    print(f"the agent: {resident:.1f} MiB, {percent:.2f} % of a core, {len(api.writes) - writes} writes in 30 s")
    assert resident < 120
    assert len(api.writes) - writes <= 2
