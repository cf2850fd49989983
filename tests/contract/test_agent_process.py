"""The agent as a process of its own, with the fake driver library, against an API server and a kubelet of the test."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from testbed.agent_process import HOST_PIDS, agent_process, stand_in_proc
from testbed.fakes.agent_api import AgentApi, pod
from testbed.fakes.kubelet import FakeKubelet
from testbed.fakes.nvml import GIB, Driver, Process, eight, write

UID = "0b5a3f4e-3c43-4e0e-9d3c-0a8f0c1d2e3f"


class Running:
    """The agent and everything around it."""

    def __init__(self, api: AgentApi, state: Path, proc: Path, port: int, process: asyncio.subprocess.Process) -> None:
        self.api = api
        self.proc = proc
        self.port = port
        self.process = process
        self._state = state

    def show(self, driver: Driver) -> None:
        write(self._state, driver)

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, seconds: float = 8.0) -> dict[str, Any]:
        """The first written status of which ``holds`` is true."""
        async with asyncio.timeout(seconds):
            while True:
                for status in self.api.writes:
                    if holds(status):
                        return status
                await asyncio.sleep(0.02)

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.port}{path}"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[FakeKubelet]:
    given = {"team/chat-0": ["GPU-fake-2"], "team/chat-1": ["GPU-fake-1"]}
    async with FakeKubelet(tmp_path / "kubelet.sock", given) as kubelet:
        yield kubelet


@pytest.fixture
async def agent(tmp_path: Path, kubelet: FakeKubelet, request: pytest.FixtureRequest) -> AsyncIterator[Running]:
    proc, state = stand_in_proc(tmp_path, pids=getattr(request, "param", HOST_PIDS)), tmp_path / "driver"
    (proc / "77").mkdir()
    (proc / "77" / "cgroup").write_text(f"0::/kubepods/burstable/pod{UID}/{'c' * 64}\n")
    driver = eight(used=GIB)
    one = replace(driver.gpus[1], processes=(Process(77, GIB),))
    write(state, replace(driver, gpus=(driver.gpus[0], one, *driver.gpus[2:])))
    stderr = asyncio.subprocess.PIPE
    async with (
        AgentApi() as api,
        agent_process(tmp_path, api, kubelet, driver=state, proc=proc, interval=0.2, stderr=stderr) as (process, port),
    ):
        api.pods, api.list_seconds = [pod("chat-0", uid=UID)], 0.3
        yield Running(api, state, proc, port, process)


def gpus(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {gpu["uuid"]: gpu for gpu in status["gpus"]}


def condition(status: dict[str, Any], kind: str = "Ready") -> tuple[str, str]:
    return next((one["status"], one["reason"]) for one in status["conditions"] if one["type"] == kind)


async def test_memory_is_attributed_to_pods(agent: Running) -> None:
    driver = eight(used=GIB)
    busy = replace(driver.gpus[2], used=40 * GIB, processes=(Process(77, 39 * GIB), Process(78, GIB)))
    agent.show(replace(driver, gpus=(*driver.gpus[:2], busy, *driver.gpus[3:])))

    def attributed(status: dict[str, Any]) -> bool:
        gpu = gpus(status)["GPU-fake-2"]
        return gpu["pods"] == ["team/chat-0"] and any(process["pod"] for process in gpu["processes"])

    found = await agent.until(attributed)
    gpu = gpus(found)["GPU-fake-2"]
    assert (gpu["usedMebibytes"], gpu["totalMebibytes"], gpu["memorySource"]) == (40960, 81920, "nvml")
    assert gpu["processes"] == [
        {"pid": 77, "usedMebibytes": 39 * 1024, "pod": "team/chat-0"},
        {"pid": 78, "usedMebibytes": 1024, "pod": ""},
    ]
    assert found["summary"] == {"gpus": "8/8", "used": "47.0/640.0 GiB", "models": 0}
    assert (found["driverVersion"], found["memoryMebibytes"]) == ("580.65.06", 128000)
    assert condition(found) == ("True", "Observed")
    assert condition(found, "Attributed") == ("True", "PodsKnown")
    assert set(agent.api.tokens) == {"Bearer secret-token"}


async def test_the_first_report_is_whole(agent: Running) -> None:
    """One that lacks pods or models would take servers out of service whenever an agent starts."""
    first = await agent.until(lambda _: True)
    gpu = gpus(first)["GPU-fake-1"]
    assert gpu["pods"] == ["team/chat-1"]
    assert [process["pod"] for process in gpu["processes"]] == ["team/chat-0"]
    assert condition(first, "Attributed") == ("True", "PodsKnown")
    assert condition(first) == ("True", "Observed")


async def test_a_lost_gpu_is_told_at_once_and_writes_do_not_overlap(agent: Running) -> None:
    driver = eight(used=GIB)
    await agent.until(lambda status: len(status["gpus"]) == 8)
    lost = replace(driver.gpus[5], error=15)
    agent.show(replace(driver, gpus=(*driver.gpus[:5], lost, *driver.gpus[6:])))
    found = await agent.until(lambda status: not gpus(status)["GPU-fake-5"]["healthy"], seconds=4)
    assert gpus(found)["GPU-fake-5"]["reason"] == "GPULost"
    assert [gpu["healthy"] for gpu in found["gpus"]].count(True) == 7
    assert condition(found) == ("False", "GPUUnhealthy")
    assert agent.api.most_under_way == 1
    sequences = [status["sequence"] for status in agent.api.writes]
    assert sequences == sorted(set(sequences))


async def test_one_gpu_that_hangs_leaves_the_others_live(agent: Running) -> None:
    driver = eight(used=GIB)
    await agent.until(lambda status: len(status["gpus"]) == 8)
    hung = replace(driver.gpus[0], hang_seconds=60)
    agent.show(replace(driver, gpus=(hung, *driver.gpus[1:])))
    await agent.until(lambda status: gpus(status)["GPU-fake-0"]["reason"] == "Unresponsive")
    moved = replace(driver.gpus[7], used=70 * GIB)
    agent.show(replace(driver, gpus=(hung, *driver.gpus[1:7], moved)))
    await agent.until(lambda status: gpus(status)["GPU-fake-7"]["usedMebibytes"] == 70 * 1024, seconds=5)
    assert (await agent.get("/healthz"))[0] == 200


@pytest.mark.parametrize("agent", ["pid:[4026532222]"], indirect=True, ids=["in a namespace of its own"])
async def test_without_the_nodes_processes_it_says_so(agent: Running) -> None:
    agent.show(Driver((replace(eight().gpus[0], used=5 * GIB, processes=(Process(77, 5 * GIB),)),)))
    found = await agent.until(lambda status: condition(status, "Attributed") == ("False", "HostPIDOff"))
    assert {one["pod"] for gpu in found["gpus"] for one in gpu["processes"]} <= {""}


async def test_a_pod_that_comes_is_looked_up_with_the_kubelet_at_once(agent: Running, kubelet: FakeKubelet) -> None:
    await agent.until(lambda _: True)
    kubelet.given["team/chat-5"] = ["GPU-fake-5"]
    agent.api.tell("ADDED", pod("chat-5", uid="5"))
    await agent.until(lambda status: gpus(status)["GPU-fake-5"]["pods"] == ["team/chat-5"], seconds=5)


async def test_probes_and_metrics(agent: Running) -> None:
    await agent.until(lambda status: len(status["gpus"]) == 8)
    for path in ("/livez", "/readyz", "/healthz"):
        assert await agent.get(path) == (200, "look: ok\ndriver: ok\nok\n")
    status, text = await agent.get("/metrics")
    assert status == 200
    assert 'ollama_fleet_gpu_memory_bytes{state="used",uuid="GPU-fake-3"} 1.073741824e+09' in text
    assert 'ollama_fleet_gpu_healthy{uuid="GPU-fake-3"} 1.0' in text
    assert re.search(r'ollama_fleet_gpu_info\{.*product="NVIDIA H100 80GB HBM3".*\} 1.0', text)
    assert 'ollama_fleet_report_writes_total{outcome="ok",reason="first"} 1.0' in text
    assert "ollama_fleet_gpu_temperature_celsius" in text
    assert 'ollama_fleet_gpu_ecc_uncorrected_errors_total{uuid="GPU-fake-3"} 0.0' in text


async def test_a_server_that_refuses_is_asked_again(agent: Running) -> None:
    await agent.until(lambda _: True)
    agent.api.refuse = 503
    before = len(agent.api.requests)
    agent.show(eight(used=30 * GIB))
    async with asyncio.timeout(5):
        while not any(method == "PATCH" for method, _ in agent.api.requests[before:]):
            await asyncio.sleep(0.02)
    written = len(agent.api.writes)
    agent.api.refuse = 0
    assert all(gpu["usedMebibytes"] == 1024 for gpu in agent.api.writes[written - 1]["gpus"])
    await agent.until(lambda status: gpus(status)["GPU-fake-0"]["usedMebibytes"] == 30 * 1024, seconds=10)


async def test_it_stops_at_once_and_logs_no_secret(agent: Running) -> None:
    await agent.until(lambda _: True)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.stderr is not None
    log = (await asyncio.wait_for(agent.process.stderr.read(), 5)).decode()
    assert await asyncio.wait_for(agent.process.wait(), 5) == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["message"] for line in lines] == ["agent starts", "agent stops"]
    assert "secret-token" not in log
