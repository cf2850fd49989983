"""What status, gate and events say when something about GPUs or their reports goes wrong, and after how long.

Reports are written by simulated agents by the real agent's rules; every test prints the times that it saw.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from ollama_fleet.agent.gpu import RESET_REQUIRED, DeviceState, GpuProcess
from ollama_fleet.agent.report import Observation
from ollama_fleet.api.state import ModelPhase, SidecarState
from ollama_fleet.controllers.demotion import HOLD_SECONDS, PROVE_SECONDS
from ollama_fleet.controllers.reports import STALE_SECONDS
from ollama_fleet.kube import kinds
from testbed.kwok import SimulatedNodes
from testbed.kwok.agents import MIB, Card, lost
from tests.support.gpu_fleet import NAMESPACE, GpuFleet, gpu_fleet

pytestmark = [pytest.mark.cluster, pytest.mark.asyncio(loop_scope="module")]

LABELS = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
SLICED = {"nvidia.com/gpu.product": "NVIDIA-A100-MIG-1g.24gb", "nvidia.com/gpu.memory": "24192"}
CARDS = {f"gpu-{n}": tuple(Card(f"GPU-{n}-{m}") for m in range(2)) for n in range(3)}
MIG = {"gpu-mig": tuple(Card(f"MIG-{n}", "NVIDIA A100 MIG 1g.24gb", 24192) for n in range(2))}
SILENT = {"gpu-silent": (Card("GPU-silent-0"), Card("GPU-silent-1"))}


@pytest.fixture(scope="module")
def simulated(kwok_cluster: SimulatedNodes) -> SimulatedNodes:
    pools = {"plain": (CARDS, LABELS), "mig": (MIG, SLICED), "silent": (SILENT, LABELS)}
    numbered = ((pool, name, labels) for pool, (nodes, labels) in pools.items() for name in nodes)
    for number, (pool, name, labels) in enumerate(numbered):
        gpus = {"nvidia.com/gpu": "2"}
        kwok_cluster.add(name, number=200 + number, resources=gpus, labels={**labels, "pool": pool})
    return kwok_cluster


Running = tuple[GpuFleet, "asyncio.Task[float]"]
"""The fleet, and the time from an agent's last word to a gate that says so."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(simulated: SimulatedNodes, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    folder: Path = tmp_path_factory.mktemp("operator")
    async with gpu_fleet(simulated, folder, {**CARDS, **MIG, **SILENT}, "--agents") as fleet:
        await fleet.serve("quiet", placement={"nodeSelector": {"pool": "silent"}})
        quiet = fleet.pod("quiet")
        fleet.agent_of(quiet).silent = True
        limit = STALE_SECONDS + 30
        yield fleet, asyncio.create_task(fleet.wait_gate(quiet, "True", "ReportStale", seconds=limit))
    for name in (*CARDS, *MIG, *SILENT):
        simulated.remove(name)


@pytest_asyncio.fixture(loop_scope="module")
async def fleet(running: Running) -> AsyncIterator[GpuFleet]:
    found, _ = running
    yield found
    for name in ("one", "two"):
        for kind in (kinds.OLLAMA_DEPLOYMENT, kinds.MODEL_SET):
            live = await found.client.get(kind, NAMESPACE, name)
            if live is not None:
                await found.client.delete(kind, NAMESPACE, name, uid=live["metadata"]["uid"])
    await found.wait(lambda: not [*found.pods_of("one"), *found.pods_of("two")], lambda: "pods are left", seconds=60)
    for agent in found.agents.agents.values():
        agent.faults = []
    found.sidecars.changes.clear()


PLAIN = {"placement": {"nodeSelector": {"pool": "plain"}}}


def evicted(seen: Observation) -> Observation:
    return replace(seen, models=dict.fromkeys(seen.models, ()))


def on_cpu(state: SidecarState) -> SidecarState:
    models = tuple(model.model_copy(update={"size_vram": model.size * 59 // 100}) for model in state.models)
    return state.model_copy(update={"models": models})


async def card_of(fleet: GpuFleet, name: str) -> str:
    """UUID of the GPU that the only pod of a deployment has."""
    pod = fleet.pod(name)
    report = await fleet.client.get(kinds.NODE_VRAM_REPORT, None, pod["spec"]["nodeName"])
    assert report is not None
    name = f"{NAMESPACE}/{pod['metadata']['name']}"
    (card,) = [gpu["uuid"] for gpu in report["status"]["gpus"] if name in gpu["pods"]]
    return str(card)


async def test_a_gate_opens_with_the_first_report_and_idle_reports_cost_nothing(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod = fleet.pod("one")
    gate = fleet.gate(pod)
    assert (gate["status"], gate["reason"]) == ("True", "Resident")
    assert gate["message"] == "1/1 models in memory, in GPU memory by the node's report"
    assert (await fleet.wait_event(pod, "Normal", "Resident")).startswith("Readiness gate opens: 1/1 models")
    status = await fleet.status("one")
    assert status["vram"] == "1.0/22.5 GiB"
    assert status["models"][0]["warm"] == 1

    def version() -> str:
        found: str = (fleet.sidecars.pods.get(NAMESPACE, pod["metadata"]["name"]) or {})["metadata"]["resourceVersion"]
        return found

    live = await fleet.client.get(kinds.OLLAMA_DEPLOYMENT, NAMESPACE, "one")
    before = (version(), live and live["metadata"]["resourceVersion"])
    agent = fleet.agent_of(pod)
    for _ in range(5):
        # Heartbeats, without the wait for them.
        agent.sequence += 1
        report = agent.see([pod], fleet.sidecars.state_of).model_copy(update={"sequence": agent.sequence})
        await fleet.agents.write(agent, report)
        await asyncio.sleep(0.2)
    live = await fleet.client.get(kinds.OLLAMA_DEPLOYMENT, NAMESPACE, "one")
    assert (version(), live and live["metadata"]["resourceVersion"]) == before


async def test_a_lost_gpu(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod, card = fleet.pod("one"), await card_of(fleet, "one")
    agent = fleet.agent_of(pod)
    agent.faults = [lost(card)]
    closed = await fleet.wait_gate(pod, "False", "GPUUnhealthy")
    await fleet.wait_reason("one", "GPUUnhealthy")
    ready = await fleet.ready("one")
    assert (ready["status"], f"GPU {card}: GPULost" in ready["message"]) == ("False", True)
    assert f"GPU {card}: GPULost" in await fleet.wait_event(pod, "Warning", "GPUUnhealthy")
    agent.faults = []
    opened = await fleet.wait_gate(pod, "True", "Resident")
    await fleet.wait_reason("one", "AllWarm")
    print(f"GPU lost: gate closes after {closed:.1f} s, and opens {opened:.1f} s after it is back")
    assert closed < 10
    assert opened >= PROVE_SECONDS


async def test_a_bad_edit_opens_no_gate_that_a_report_closed(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod, card = fleet.pod("one"), await card_of(fleet, "one")
    fleet.agent_of(pod).faults = [lost(card)]
    await fleet.wait_gate(pod, "False", "GPUUnhealthy")
    await fleet.deployment("one", modelSets=[{"name": "one"}, {"name": "missing"}], **PLAIN)
    await fleet.wait_reason("one", "ModelSetMissing")
    await asyncio.sleep(1)
    assert fleet.gate(pod)["status"] == "False"


async def test_an_instance_of_a_split_gpu_is_lost(fleet: GpuFleet) -> None:
    await fleet.serve("one", placement={"nodeSelector": {"pool": "mig"}})
    pod, card = fleet.pod("one"), await card_of(fleet, "one")
    assert card.startswith("MIG-")
    assert (await fleet.status("one"))["vram"] == "1.0/23.6 GiB"
    fleet.agent_of(pod).faults = [lost(card, reason="XID 79")]
    closed = await fleet.wait_gate(pod, "False", "GPUUnhealthy")
    assert f"{card}: XID 79" in fleet.gate(pod)["message"]
    print(f"MIG instance lost: gate closes after {closed:.1f} s")


async def test_a_silent_fall_back_to_the_cpu(fleet: GpuFleet) -> None:
    await fleet.serve("two", replicas=2, **PLAIN)
    first, second = fleet.pods_of("two")
    fleet.sidecars.changes[first["metadata"]["name"]] = on_cpu
    closed = await fleet.wait_gate(first, "False", "CPUOffload")
    assert "41 % of two in system memory" in fleet.gate(first)["message"]
    assert "Readiness gate closes: 41 % of two" in await fleet.wait_event(first, "Warning", "CPUOffload")
    await fleet.wait_reason("two", "CPUOffload")
    fleet.sidecars.changes[second["metadata"]["name"]] = on_cpu
    spared = await fleet.wait_gate(second, "True", "CPUOffload")
    assert "it is the last ready server and keeps serving" in fleet.gate(second)["message"]
    fleet.sidecars.changes.clear()
    opened = await fleet.wait_gate(first, "True", "Resident")
    print(
        f"CPU fall-back: gate closes after {closed:.1f} s, the last server is spared after {spared:.1f} s, "
        f"gate opens {opened:.1f} s after the model is back"
    )
    assert HOLD_SECONDS <= closed < 10


async def test_a_single_bad_sample_closes_nothing(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod = fleet.pod("one")
    agent = fleet.agent_of(pod)
    agent.faults = [evicted]
    await fleet.wait(lambda: not agent.writing.due(agent.see([pod], fleet.sidecars.state_of)), lambda: "not written")
    await asyncio.sleep(1)
    agent.faults = []
    deadline = time.monotonic() + HOLD_SECONDS + 2
    while time.monotonic() < deadline:
        assert fleet.gate(pod)["status"] == "True"
        await asyncio.sleep(0.1)


async def test_a_model_is_evicted_and_loaded_again(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod = fleet.pod("one")
    fleet.agent_of(pod).faults = [evicted]
    closed = await fleet.wait_gate(pod, "False", "NotResident")
    await fleet.wait_reason("one", "NotResident")
    fleet.agent_of(pod).faults = []
    opened = await fleet.wait_gate(pod, "True", "Resident")
    await fleet.wait_reason("one", "AllWarm")
    print(f"model evicted: gate closes after {closed:.1f} s, and opens {opened:.1f} s after it is back")
    assert HOLD_SECONDS <= closed < 10


async def test_a_foreign_process_takes_memory(fleet: GpuFleet) -> None:
    """It is seen, and no server is blamed for it."""
    await fleet.serve("one", **PLAIN)
    pod, card = fleet.pod("one"), await card_of(fleet, "one")

    def taken(state: DeviceState) -> DeviceState:
        memory = replace(state.device.memory, used=22000 * MIB, free=100 * MIB)
        processes = (*state.device.processes, GpuProcess(9, 20000 * MIB))
        return replace(state, device=replace(state.device, memory=memory, processes=processes))

    def crowded(seen: Observation) -> Observation:
        devices = (taken(one) if one.device.uuid == card else one for one in seen.view.devices)
        return replace(seen, view=replace(seen.view, devices=tuple(devices)))

    agent = fleet.agent_of(pod)
    agent.faults = [crowded]
    writes = agent.writes
    await fleet.wait(lambda: agent.writes > writes, lambda: "the agent tells nothing")
    await asyncio.sleep(HOLD_SECONDS + 2)
    assert fleet.gate(pod)["status"] == "True"
    assert (await fleet.ready("one"))["reason"] == "AllWarm"


async def test_a_report_out_of_order(fleet: GpuFleet) -> None:
    await fleet.serve("one", **PLAIN)
    pod, card = fleet.pod("one"), await card_of(fleet, "one")
    agent = fleet.agent_of(pod)
    agent.silent, agent.faults = True, [lost(card)]
    late = agent.see([pod], fleet.sidecars.state_of).model_copy(update={"sequence": agent.sequence - 1})
    await fleet.agents.write(agent, late)
    await asyncio.sleep(3)
    assert fleet.gate(pod)["status"] == "True"
    assert (await fleet.ready("one"))["reason"] == "AllWarm"
    agent.silent, agent.faults = False, []


async def test_the_clock_of_a_node_is_put_back_an_hour(fleet: GpuFleet) -> None:
    """An agent that restarts counts from its clock: its reports count again with the second one."""
    await fleet.serve("one", **PLAIN)
    pod, card = fleet.pod("one"), await card_of(fleet, "one")
    agent = fleet.agent_of(pod)
    agent.sequence -= 3600
    started, told = time.monotonic(), agent.writes
    agent.faults = [lost(card)]
    await fleet.wait(lambda: agent.writes > told, lambda: "the fault should be told once")
    agent.faults = [lost(card, reason=RESET_REQUIRED)]
    await fleet.wait_gate(pod, "False", "GPUUnhealthy")
    print(f"clock an hour behind: a fault that is told twice closes the gate after {time.monotonic() - started:.1f} s")
    assert time.monotonic() - started < 10
    agent.sequence += 7200
    agent.faults = []
    await fleet.wait_gate(pod, "True", "Resident")


async def test_the_operator_dies_while_pods_load(fleet: GpuFleet) -> None:
    def loading(state: SidecarState) -> SidecarState:
        models = tuple(model.model_copy(update={"phase": ModelPhase.LOADING, "size": 0}) for model in state.models)
        return state.model_copy(update={"ready": False, "models": models})

    fleet.sidecars.changes["one"] = loading
    await fleet.model_set("one", {"name": "one", "model": "chat", "contextLength": 2048})
    await fleet.deployment("one", **PLAIN)
    await fleet.wait_reason("one", "Loading", seconds=60)
    fleet.operator.kill()
    del fleet.sidecars.changes["one"]
    await asyncio.sleep(2)
    pod = fleet.pod("one")
    assert fleet.gate(pod).get("status") != "True", "without an operator nobody opens a gate"
    started = time.monotonic()
    fleet.operator.start()
    await fleet.wait_reason("one", "AllWarm", seconds=90)
    print(f"operator killed while pods load: all is open {time.monotonic() - started:.1f} s after it is back")


async def test_an_agent_stops_to_report(running: Running) -> None:
    """The last test: the agent has been silent since the first."""
    fleet, noticed = running
    pod = fleet.pod("quiet")
    print(f"agent silent: the gate says so after {await noticed:.0f} s, and stays open")
    assert f"The agent of {pod['spec']['nodeName']} does not report any more" in fleet.gate(pod)["message"]
    # A second server on that node has nobody to speak for it.
    await fleet.deployment("quiet", replicas=2, placement={"nodeSelector": {"pool": "silent"}})
    await fleet.wait(lambda: len(fleet.pods_of("quiet")) == 2, lambda: "no second pod")
    (newcomer,) = [one for one in fleet.pods_of("quiet") if one["metadata"]["uid"] != pod["metadata"]["uid"]]
    await fleet.wait_gate(newcomer, "False", "ReportStale", seconds=30)
    assert fleet.gate(pod)["status"] == "True"
    fleet.agent_of(pod).silent = False
    await fleet.wait_gate(newcomer, "True", "Resident", seconds=20)
    await fleet.wait_gate(pod, "True", "Resident", seconds=20)
