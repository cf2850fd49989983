"""The node agent's footprint, a real process with eight GPUs of the fake driver library at one look a second; and what
the reports of many agents cost the operator.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from benchmarks import agent_fleet
from benchmarks.report import Report, Row, cpu_seconds
from ollama_fleet.api.state import ModelPhase, ModelState, SidecarState
from testbed.agent_process import agent_process
from testbed.fakes.agent_api import AgentApi, pod
from testbed.fakes.kubelet import FakeKubelet
from testbed.fakes.nvml import GIB, Driver, Gpu, Process, write
from testbed.ports import free_ports

_SECONDS: Final = {True: 25.0, False: 180.0}
_WARM_SECONDS: Final = 5.0
"""Left out of the figures: the start and the first writes."""
_GPUS: Final = 8
_PODS: Final = 4
_RSS_GOAL: Final = 60.0
_CPU_GOAL: Final = 0.5
_CONDITION_GOAL: Final = 2.0


def run(*, quick: bool) -> Report:
    """An agent whose node does nothing, and an operator that hears many such agents. The baselines are the goals."""
    size = agent_fleet.QUICK if quick else agent_fleet.FULL
    with ThreadPoolExecutor(1) as beside:
        fleet = beside.submit(agent_fleet.run, size)
        rss, cpu, writes = asyncio.run(_measure(_SECONDS[quick]))
        heard = fleet.result()
    report = Report(
        f"agent: an idle node with {_GPUS} GPUs and {_PODS} pods, one look a second", {"nodes": str(size.nodes)}
    )
    report.rows = [
        Row("resident memory (baseline: the goal)", "MiB", rss, _RSS_GOAL),
        Row("CPU (baseline: the goal)", "% of a core", cpu, _CPU_GOAL),
        Row("writes of the report", "per minute", writes),
        Row(f"{size.nodes} nodes: reports", "1/s", heard.reports_per_second),
        Row("from a report to a pod's condition, median", "s", heard.report_to_condition_median_s),
        Row("the same, 99th percentile (baseline: goal)", "s", heard.report_to_condition_p99_s, _CONDITION_GOAL),
        Row("operator: CPU while nothing happens", "% of a core", heard.cpu_percent),
        Row("operator: peak memory", "MiB", heard.peak_mib),
        Row(f"operator: writes in {size.idle_seconds:.0f} such seconds", "1", float(heard.writes)),
    ]
    report.figures = {
        "rss_mib": rss,
        "cpu_percent_at_1hz": cpu,
        "report_to_condition_p99_s": heard.report_to_condition_p99_s,
        "writes_per_node_minute_idle": writes,
        "nodes": size.nodes,
        "reports_per_second": heard.reports_per_second,
        "operator_cpu_percent": heard.cpu_percent,
        "operator_peak_mib": heard.peak_mib,
        "operator_idle_writes": heard.writes,
    }
    return report


async def _measure(seconds: float) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        given = {f"team/chat-{n}": [f"GPU-{n}"] for n in range(_PODS)}
        driver = folder / "driver"
        # Processes of the machine, so that their cgroups are read as on a node.
        used = Process(os.getpid(), 30 * GIB)
        write(driver, Driver(tuple(Gpu(f"GPU-{n}", used=30 * GIB, processes=(used,)) for n in range(_GPUS))))
        async with (
            AgentApi() as api,
            _sidecars() as port,
            FakeKubelet(folder / "kubelet.sock", given) as kubelet,
            agent_process(
                folder, api, kubelet, driver=driver, stderr=asyncio.subprocess.DEVNULL, sidecar_port=port
            ) as (process, _),
        ):
            api.pods = [pod(f"chat-{n}", uid=str(n), ip=f"127.0.0.{n + 1}") for n in range(_PODS)]
            api.end_watches()
            await asyncio.sleep(_WARM_SECONDS)
            writes, cpu = len(api.writes), cpu_seconds(process.pid)
            if not writes or not api.writes[-1]["models"]:
                raise RuntimeError("the agent writes no report with models")
            await asyncio.sleep(seconds)
            spent = cpu_seconds(process.pid) - cpu
            return _rss_mib(process.pid), spent / seconds * 100, (len(api.writes) - writes) / seconds * 60


@asynccontextmanager
async def _sidecars() -> AsyncIterator[int]:
    """A pod per address of loopback. Their port."""
    model = ModelState(name="chat", phase=ModelPhase.WARM, digest=f"sha256:{'a' * 64}", size=GIB, size_vram=GIB)
    state = SidecarState(sequence=1, config_hash="x", ready=True, models=(model,)).to_wire()

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(state)

    app = web.Application()
    app.router.add_get("/fleet/v1/state", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    (port,) = free_ports(1)
    for n in range(_PODS):
        await web.TCPSite(runner, f"127.0.0.{n + 1}", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


def _rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
