"""The agent's loops: look at the GPUs each second, ask kubelet and sidecars beside it, write what changed."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ollama_fleet.agent.apiserver import ApiFailed
from ollama_fleet.agent.cgroup import sees_host_processes
from ollama_fleet.agent.gpu import GpuView
from ollama_fleet.agent.kubelet import SOCKET, KubeletFailed, pod_devices
from ollama_fleet.agent.metrics import AgentMetrics
from ollama_fleet.agent.podresources import PodDevices, holders
from ollama_fleet.agent.pods import Pods
from ollama_fleet.agent.reader import GpuReader
from ollama_fleet.agent.report import Observation, status
from ollama_fleet.agent.runners import Runner, runner_of
from ollama_fleet.agent.sidecars import Sidecars
from ollama_fleet.agent.slices import Slices
from ollama_fleet.agent.store import ReportStore
from ollama_fleet.agent.system import system_memory
from ollama_fleet.agent.writing import Writing
from ollama_fleet.api.common import Condition
from ollama_fleet.api.nodevramreport import NodeVRAMReportStatus
from ollama_fleet.api.reasons import Reason
from ollama_fleet.telemetry.health import Heartbeat

logger = logging.getLogger(__name__)

KUBELET_SECONDS: Final = 15.0
"""Between two questions to the kubelet while no Ollama pod comes, changes or goes."""
SIDECAR_SECONDS: Final = 2.0
FIRST_SECONDS: Final = 5.0
"""How long the first report waits for kubelet, sidecars and driver. For the pods of the node it waits until they come:
what is not known of them would look like models that left memory."""
_STUCK_SECONDS: Final = 30.0
_AWAY_SECONDS: Final = 120.0
_NO_HOST_PID: Final = "the agent runs without hostPID: memory is known per GPU, not per process and pod"


@dataclass(slots=True)
class Agent:
    """One node's agent."""

    reader: GpuReader
    store: ReportStore
    pods: Pods
    slices: Slices
    sidecars: Sidecars = field(default_factory=Sidecars)
    metrics: AgentMetrics = field(default_factory=AgentMetrics)
    socket: Path = SOCKET
    proc: Path = Path("/proc")
    interval: float = 1.0
    clock: Callable[[], float] = time.monotonic
    heartbeat: Heartbeat = field(default_factory=lambda: Heartbeat("the look at the GPUs", limit=_STUCK_SECONDS))
    _writing: Writing = field(init=False)
    # Readers wait for another number than the one they know: a restarted agent must not count the same ones again.
    _sequence: int = field(default_factory=lambda: int(time.time()))
    _conditions: list[Condition] = field(default_factory=list)
    _given: tuple[PodDevices, ...] | None = None
    """None until the kubelet has told."""
    _kubelet_problem: str = ""
    _write: asyncio.Task[None] | None = None
    _started: float = field(init=False)
    _away_since: float | None = None
    _bare: bool = field(init=False)
    """Whether the node had no driver when the agent started."""
    _host: bool = field(init=False)
    """Whether process numbers are those of the node; that and the node's memory never change below an agent."""
    _memory: int = field(init=False)
    _runners: dict[int, Runner] = field(default_factory=dict)
    """Processes on GPUs by number."""

    def __post_init__(self) -> None:
        """What goes by the clock, and what never changes."""
        self._writing = Writing(clock=self.clock)
        self._started = self.clock()
        self._host = sees_host_processes(proc=self.proc)
        self._memory = system_memory(self.proc / "meminfo").total
        self._bare = not self._driver_loaded()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pods.run())
            await self.meet()
            tasks.create_task(self._follow_kubelet())
            tasks.create_task(self._every(SIDECAR_SECONDS, self.ask_sidecars))
            tasks.create_task(self._every(self.interval, self.look))

    async def meet(self) -> None:
        """Ask everybody once, so that the first report is whole."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SECONDS):
                await asyncio.gather(self.pods.listed.wait(), self.ask_kubelet())
                await self.ask_sidecars()

    async def look(self) -> None:
        """Look at everything once, and start a write if one is due."""
        view = await asyncio.to_thread(self.reader.read)
        seen = self.metrics.seen = self._observe(view)
        self._watch_driver(view)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        report = status(seen, previous=self._conditions, generation=self.store.generation, now=now)
        self._conditions = report.conditions
        why = self._writing.due(report)
        if why and self._knows_enough(view):
            self._sequence += 1
            report = report.model_copy(update={"sequence": self._sequence})
            self._writing.begin(report)
            self._write = asyncio.create_task(self._store(report, why))
        self.heartbeat.beat()

    def _knows_enough(self, view: GpuView) -> bool:
        """Whether a report would not mislead. None at all leaves every gate as it is."""
        awaited = bool(view.problem and not view.devices) and self.clock() - self._started < FIRST_SECONDS
        return self.pods.listed.is_set() and not awaited

    async def _follow_kubelet(self) -> None:
        """Pods that change may have been given devices; those of others are noticed in time."""
        while True:
            self.pods.changed.clear()
            await self.ask_kubelet()
            await asyncio.sleep(self.interval)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KUBELET_SECONDS):
                    await self.pods.changed.wait()

    async def settle(self) -> None:
        """Wait for the write that is under way."""
        if self._write is not None:
            await self._write

    async def ask_kubelet(self) -> None:
        """Learn which pod holds which device."""
        try:
            self._given = await pod_devices(self.socket)
        except KubeletFailed as error:
            if not self._kubelet_problem:
                logger.warning("the kubelet does not tell who holds the GPUs", extra={"reason": str(error)})
            self._kubelet_problem = str(error)
            return
        if self._kubelet_problem:
            logger.info("the kubelet tells who holds the GPUs")
        self._kubelet_problem = ""
        await self.slices.learn(one for pod in self._given for one in pod.claimed)

    async def ask_sidecars(self) -> None:
        """Learn which models are in memory."""
        await self.sidecars.ask(list(self.pods.by_uid.values()))

    def driver_check(self) -> str | None:
        """For ``/livez``: the driver was exchanged or came late, and only a new container gets its library."""
        if self._away_since is None or self.clock() - self._away_since < _AWAY_SECONDS:
            return None
        return f"the GPU driver has been out of reach for {self.clock() - self._away_since:.0f} s"

    def _observe(self, view: GpuView) -> Observation:
        pods = self._pods_of({process.pid for state in view.devices for process in state.device.processes})
        blind, message = None, ""
        if self._kubelet_problem or self._given is None:
            blind, message = Reason.KUBELET_UNREACHABLE, self._kubelet_problem or "the kubelet has not answered yet"
        elif not self._host:
            blind, message = Reason.HOST_PID_OFF, _NO_HOST_PID
        return Observation(
            view=view,
            memory=self._memory,
            holders=holders(self._given or (), self.slices.uuids),
            process_pods=pods,
            process_weights={pid: weights for pid in pods if (weights := self._runners[pid].weights)},
            models=self.sidecars.models(),
            blind=blind,
            blind_message=message,
        )

    def _pods_of(self, pids: Iterable[int]) -> dict[int, str]:
        """A process is looked at when it comes: its pod and its work stay the same until it is gone."""
        if not self._host:
            return {}
        self._runners = {pid: self._runners.get(pid) or runner_of(pid, proc=self.proc) for pid in pids}
        pods = ((pid, self.pods.by_uid.get(runner.pod_uid)) for pid, runner in self._runners.items())
        return {pid: pod.name for pid, pod in pods if pod is not None}

    def _watch_driver(self, view: GpuView) -> None:
        """A driver that was there when the agent started and never worked is no reason to restart, and one that came
        later only once: else that would go on for ever.
        """
        late = self._bare and not view.driver and self._driver_loaded()
        gone = bool(view.problem and view.devices) or late
        if not gone:
            self._away_since = None
        elif self._away_since is None:
            self._away_since = self.clock()
            reason = view.problem or "it came after the agent's container, which lacks its library"
            logger.warning("the GPU driver is out of reach", extra={"reason": reason})

    def _driver_loaded(self) -> bool:
        """By the kernel's word, which needs no library."""
        return (self.proc / "driver" / "nvidia" / "version").exists()

    async def _store(self, report: NodeVRAMReportStatus, why: str) -> None:
        try:
            await self.store.write(report)
        except ApiFailed as error:
            self._writing.failed()
            self.metrics.wrote(why, str(error.status))
            logger.warning("the report is not written", extra={"status": error.status, "reason": str(error)})
        except BaseException:
            self._writing.failed()
            raise
        else:
            self._writing.succeeded()
            self.metrics.wrote(why, "ok")

    async def _every(self, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            started = self.clock()
            await do()
            await asyncio.sleep(max(0.0, seconds - (self.clock() - started)))
