"""A real Ollama on a real GPU: warmed by the sidecar, counted by the driver, judged as the operator judges."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from ollama_fleet.agent.gpu import DeviceState, GpuView
from ollama_fleet.agent.nvml import Nvml
from ollama_fleet.agent.pods import Pod
from ollama_fleet.agent.report import Observation, status
from ollama_fleet.agent.runners import weights_of
from ollama_fleet.agent.sidecars import resident
from ollama_fleet.agent.system import system_memory
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.reasons import Reason
from ollama_fleet.controllers.pods import PodView, view
from ollama_fleet.controllers.vram import Objection, objection
from ollama_fleet.planning.expectations import Expectation
from ollama_fleet.sizing.context import context_on
from ollama_fleet.sizing.estimate import MIB, estimate
from ollama_fleet.sizing.gguf import read_header
from ollama_fleet.sizing.load import Engine, Load
from ollama_fleet.sizing.shape import shape_of
from testbed.models import push
from testbed.ollama_process import VERSIONS, real_ollama
from tests.support.sidecar_bench import Sidecar, group_config, group_model, pulled, sidecar

pytestmark = pytest.mark.gpu

CONTEXT = 2048
OFF = {"num_gpu": 0, "num_ctx": CONTEXT, "num_predict": 2}
POD = Pod(uid="u", name="team/chat-0")
OLLAMA = os.environ.get("OLLAMA_ON_GPU", "")
"""An installed program that uses the GPU; the test bed's is built for the CPU."""


@dataclass(frozen=True)
class Node:
    """One pod with the GPU, as the agent and the operator see it."""

    nvml: Nvml
    sidecar: Sidecar
    ollama: httpx.AsyncClient
    expected: Expectation

    @property
    def pod(self) -> PodView:
        metadata = {"namespace": "team", "name": "chat-0", "uid": "u"}
        return view({"metadata": metadata, "spec": {"nodeName": "n", "containers": []}})

    def report(self) -> NodeVRAMReportStatus:
        devices = self.nvml.read(0).devices
        numbers = [one.pid for device in devices for one in device.processes]
        seen = Observation(
            GpuView("test", devices=tuple(DeviceState(device) for device in devices)),
            memory=system_memory().total,
            holders={devices[0].uuid: ("team/chat-0",)},
            process_pods=dict.fromkeys(numbers, "team/chat-0"),
            process_weights={pid: weights for pid in numbers if (weights := weights_of(pid))},
            models={POD.name: resident(POD, self.sidecar.board.snapshot())},
        )
        return status(seen, previous=(), generation=1, now="2026-01-01T00:00:00Z")

    def objection(self) -> Objection | None:
        config = self.sidecar.board.config
        assert config is not None
        state = self.sidecar.board.snapshot()
        return objection(self.pod, report=self.report(), state=state, config=config, expected=self.expected)


@pytest.fixture
async def node(nvml: Nvml, tmp_path: Path) -> AsyncIterator[Node]:
    if not OLLAMA:
        pytest.skip("OLLAMA_ON_GPU names no installed Ollama")
    made = push.image("chat-large")
    digest = pulled(tmp_path / "store", made)
    shape = shape_of(read_header(made.blobs[made.weights]), file_bytes=len(made.blobs[made.weights]))
    driver = context_on(nvml.read(0).devices[0].product)
    planned = estimate(shape, Load(CONTEXT), Engine.LLAMA_SERVER, driver=driver).total
    print(f"planned: {planned / MIB:.0f} MiB")
    (tmp_path / "home").mkdir()
    with real_ollama(VERSIONS[1], tmp_path / "home", models=tmp_path / "store", program=Path(OLLAMA)) as server:
        async with (
            sidecar(server.url, tmp_path / "store") as under_test,
            httpx.AsyncClient(base_url=server.url, timeout=60) as ollama,
        ):
            chat = group_model("chat", digest, context_length=CONTEXT)
            assert await under_test.warmer.apply(group_config(chat))
            await under_test.warm("chat")
            yield Node(nvml, under_test, ollama, Expectation({"chat": planned}, {"chat": CONTEXT}))


async def test_a_model_on_the_gpu_opens_the_gate_and_one_that_fell_back_closes_it(node: Node) -> None:
    report = node.report()
    (model,), (process,) = report.models, report.gpus[0].processes
    print(f"/api/ps: {model.size / MIB:.1f} MiB, on GPU {model.size_vram / MIB:.1f}; driver: {process.used_mebibytes}")
    assert model.size == model.size_vram > 0
    assert process.weights == model.weights
    assert node.objection() is None

    # Ollama says 200, and computes on the CPU.
    body = {"model": "chat", "prompt": "hello", "stream": False, "options": OFF}
    answer = await node.ollama.post("/api/generate", json={**body, "keep_alive": -1})
    assert answer.status_code == 200
    known = node.sidecar.board.warmth
    await node.sidecar.until(lambda: known["chat"].size_vram < known["chat"].size)
    found = node.objection()
    assert found is not None
    assert found.reason is Reason.CPU_OFFLOAD
    print(found.message)
