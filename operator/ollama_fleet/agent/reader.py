"""Looks at all GPUs of the node. A GPU that hangs or is lost never hides the others."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from ollama_fleet.agent import gpu
from ollama_fleet.agent.gpu import Device, DeviceState, GpuView, Memory, Reading, Sensors
from ollama_fleet.agent.nvml import NO_DRIVER, START_AGAIN, NvmlFailed
from ollama_fleet.agent.worker import Worker

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Errors of programs, not of the GPU (the same list as NVIDIA's device plugin)."""

_CLEAN_LOOKS: Final = 3
"""Good looks in a row before a GPU that was not healthy is again."""
_LOST: Final = {15: gpu.LOST, 16: gpu.RESET_REQUIRED}
_NOWHERE: Final = Memory(0, 0, 0, 0)


class Library(Protocol):
    """The driver's library. Every call may hang."""

    def start(self) -> tuple[str, int]:
        """Version and number of GPUs. Raises NvmlFailed."""

    def read(self, index: int) -> Reading:
        """One GPU. Raises NvmlFailed."""


@dataclass(slots=True)
class _Known:
    """A GPU that was seen once."""

    devices: tuple[Device, ...]
    sensors: Sensors
    reason: str = ""
    clean: int = _CLEAN_LOOKS
    """Good looks since the last bad one."""
    xid: int = 0


@dataclass(slots=True)
class GpuReader:
    """``read`` blocks, for about ``deadline`` seconds at the worst; it belongs to one thread."""

    library: Library
    deadline: float = 2.0
    retry: float = 10.0
    """Seconds between attempts to start the driver's library."""
    ignored_xids: Collection[int] = APPLICATION_XIDS
    clock: Callable[[], float] = time.monotonic
    _driver: str = ""
    _count: int = 0
    _problem: str = ""
    _next_start: float = 0.0
    _starter: Worker[tuple[str, int]] = field(default_factory=partial(Worker, "nvml-start"))
    _workers: list[Worker[Reading]] = field(default_factory=list)
    _known: dict[str, _Known] = field(default_factory=dict)
    """By UUID of the GPU."""
    _at: dict[int, str] = field(default_factory=dict)
    """UUID by index, since the library was started."""

    def read(self) -> GpuView:
        """Look at every GPU once."""
        if not self._driver and not self._start():
            return self._view({})
        failed = self._look()
        if START_AGAIN.intersection(failed.values()):
            self._driver, self._problem = "", "the driver was unloaded or exchanged"
            self._next_start = self.clock()
        for index, code in failed.items():
            self._missed(index, code)
        return self._view(failed)

    def _start(self) -> bool:
        """Whether the library works now."""
        if not self._starter.busy:
            if self.clock() < self._next_start:
                return False
            self._next_start = self.clock() + self.retry
            self._starter.submit(self.library.start)
        done = self._starter.take(self.deadline)
        if done is None:
            self._problem = "the driver does not answer"
        elif done.value is None:
            missing = isinstance(done.error, NvmlFailed) and done.error.code in NO_DRIVER
            self._problem = "" if missing and not self._known else str(done.error)
        else:
            (self._driver, self._count), self._problem = done.value, ""
            self._at.clear()
            for known in self._known.values():
                known.reason, known.clean, known.xid = "", _CLEAN_LOOKS, 0
            self._workers += [Worker(f"gpu-{index}") for index in range(len(self._workers), self._count)]
        return bool(self._driver)

    def _look(self) -> dict[int, int | None]:
        """Read all GPUs at once; the codes of those that failed by index, None for silence."""
        asked, failed = [], dict[int, int | None]()
        for index in range(self._count):
            worker = self._workers[index]
            # What a call brings that was given up is too old.
            if worker.busy and worker.take(0) is None:
                failed[index] = None
                continue
            worker.submit(partial(self.library.read, index))
            asked.append(index)
        until = time.monotonic() + self.deadline
        for index in asked:
            done = self._workers[index].take(until - time.monotonic())
            if done is not None and done.value is not None:
                self._seen(index, done.value)
            else:
                error = done.error if done else None
                failed[index] = error.code if isinstance(error, NvmlFailed) else None if done is None else 999
        return failed

    def _seen(self, index: int, reading: Reading) -> None:
        self._at[index] = reading.uuid
        known = self._known.setdefault(reading.uuid, _Known(reading.devices, reading.sensors))
        known.devices, known.sensors = reading.devices, reading.sensors
        known.clean = min(known.clean + 1, _CLEAN_LOOKS)
        serious = [xid for xid in reading.xids if xid not in self.ignored_xids]
        known.xid = serious[-1] if serious else known.xid
        if known.xid:
            known.reason = f"{gpu.XID} {known.xid}"
        elif reading.sensors.remap_failed:
            known.reason = gpu.REMAP_FAILED
        elif known.clean >= _CLEAN_LOOKS:
            known.reason = ""

    def _missed(self, index: int, code: int | None) -> None:
        uuid = self._at.get(index)
        if uuid is not None:
            known = self._known[uuid]
            known.clean, known.reason, known.sensors = 0, _reason(code), Sensors()

    def _view(self, failed: dict[int, int | None]) -> GpuView:
        if not self._driver:
            states = [
                DeviceState(device, gpu.DRIVER_AWAY) for known in self._known.values() for device in known.devices
            ]
            return GpuView("", self._problem, _ordered(states))
        here = set(self._at.values())
        missing = [uuid for uuid in self._known if uuid not in here]
        for uuid in missing:
            self._known[uuid].clean, self._known[uuid].reason = 0, gpu.LOST
        states = [DeviceState(device, known.reason) for known in self._known.values() for device in known.devices]
        strangers = [index for index in failed if index not in self._at]
        # A GPU that failed since the start of the library has no name yet: it may be one that is missing.
        states += [DeviceState(_stranger(index), _reason(failed[index])) for index in strangers[len(missing) :]]
        sensors = {uuid: known.sensors for uuid, known in self._known.items() if uuid in here}
        return GpuView(self._driver, "", _ordered(states), sensors)


def _reason(code: int | None) -> str:
    return gpu.UNRESPONSIVE if code is None else _LOST.get(code, f"{gpu.DRIVER_ERROR} {code}")


def _stranger(index: int) -> Device:
    return Device(f"GPU-unknown-{index}", index, "", _NOWHERE)


def _ordered(states: Iterable[DeviceState]) -> tuple[DeviceState, ...]:
    return tuple(sorted(states, key=lambda state: (state.device.index, state.device.uuid)))
