"""Looks at all GPUs of the node. A GPU that hangs or is lost never hides the others."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

from ollama_fleet.agent import gpu
from ollama_fleet.agent.gpu import Device, DeviceState, GpuView, Memory, Reading, Sensors
from ollama_fleet.agent.nvml import NO_DRIVER, START_AGAIN, NvmlFailed
from ollama_fleet.agent.worker import Worker

APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})
"""Errors of programs, not of the GPU (the same list as NVIDIA's device plugin)."""

_PATIENCE_SECONDS: Final = 0.25
"""For one thread to read all GPUs."""
_UNKNOWN: Final = 999
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
    """The last error that condemns it."""
    xids: Counter[int] = field(default_factory=Counter)


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
    _together: Worker[None] = field(default_factory=partial(Worker, "gpus"))
    _own: dict[int, Worker[None]] = field(default_factory=dict)
    """Threads of GPUs that were slow once, by index."""
    _given_up: dict[int, "_Turn"] = field(default_factory=dict)
    """Of calls that did not end in time, by index."""
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
            self._given_up.clear()
            for known in self._known.values():
                known.reason, known.clean, known.xid = "", _CLEAN_LOOKS, 0
        return bool(self._driver)

    def _look(self) -> dict[int, int | None]:
        """Read all GPUs; the codes of those that failed by index, None for silence.

        One thread reads them in turn, which costs least. When one of them is slow, the others get threads of their own.
        """
        late = {index for index, worker in self._own.items() if worker.busy and worker.take(0) is None}
        for index in self._given_up.keys() - late:
            # What it brings is too old, but for errors: the driver tells each of them once.
            found = self._given_up.pop(index).found().get(index)
            if isinstance(found, Reading):
                self._blame(found)
        turn = _Turn(self.library, [index for index in range(self._count) if index not in late])
        until = time.monotonic() + self.deadline
        self._together.submit(turn.run)
        if self._together.take(min(_PATIENCE_SECONDS, self.deadline)) is None:
            self._part(turn, until)
        failed = dict[int, int | None].fromkeys(range(self._count))
        for index, found in turn.found().items():
            if isinstance(found, Reading):
                self._seen(index, found)
                del failed[index]
            else:
                failed[index] = found
        self._given_up |= {index: turn for index, code in failed.items() if code is None and index not in late}
        return failed

    def _part(self, turn: "_Turn", until: float) -> None:
        left = turn.leave()
        if not left:
            self._together.take(self.deadline)
            return
        slow, *rest = left
        # The thread that waits for the slow one is its own from now on.
        free = self._own.pop(slow) if slow in self._own else Worker[None]("gpus")
        self._own[slow], self._together = self._together, free
        for index in rest:
            if index not in self._own:
                self._own[index] = Worker(f"gpu-{index}")
            self._own[index].submit(partial(turn.read, index))
        for index in left:
            self._own[index].take(until - time.monotonic())

    def _seen(self, index: int, reading: Reading) -> None:
        self._at[index] = reading.uuid
        known = self._blame(reading)
        known.devices, known.sensors = reading.devices, reading.sensors
        known.clean = min(known.clean + 1, _CLEAN_LOOKS)
        if known.xid:
            known.reason = f"{gpu.XID} {known.xid}"
        elif reading.sensors.remap_failed:
            known.reason = gpu.REMAP_FAILED
        elif known.clean >= _CLEAN_LOOKS:
            known.reason = ""

    def _blame(self, reading: Reading) -> _Known:
        """Note the errors of a GPU."""
        known = self._known.setdefault(reading.uuid, _Known(reading.devices, reading.sensors))
        known.xids.update(reading.xids)
        serious = [xid for xid in reading.xids if xid not in self.ignored_xids]
        known.xid = serious[-1] if serious else known.xid
        return known

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
            return GpuView("", self._problem, _ordered(states), xids=self._xids())
        here = set(self._at.values())
        missing = [uuid for uuid in self._known if uuid not in here]
        for uuid in missing:
            self._known[uuid].clean, self._known[uuid].reason = 0, gpu.LOST
        states = [DeviceState(device, known.reason) for known in self._known.values() for device in known.devices]
        strangers = [index for index in failed if index not in self._at]
        # A GPU that failed since the start of the library has no name yet: it may be one that is missing.
        states += [DeviceState(_stranger(index), _reason(failed[index])) for index in strangers[len(missing) :]]
        sensors = {uuid: known.sensors for uuid, known in self._known.items() if uuid in here}
        return GpuView(self._driver, "", _ordered(states), sensors, self._xids())

    def _xids(self) -> dict[str, dict[int, int]]:
        """A copy: the next look runs in another thread than those who read this one."""
        return {uuid: dict(known.xids) for uuid, known in self._known.items()}


class _Turn:
    """One look at some GPUs; its calls run in threads that may be left alone with them."""

    def __init__(self, library: Library, indexes: Sequence[int]) -> None:
        self._library = library
        self._indexes = indexes
        self._found: dict[int, Reading | int] = {}
        self._left = False

    def run(self) -> None:
        """Read one after the other until it is left."""
        for index in self._indexes:
            if self._left:
                return
            self.read(index)

    def read(self, index: int) -> None:
        """Read one."""
        try:
            self._found[index] = self._library.read(index)
        except NvmlFailed as error:
            self._found[index] = error.code
        except Exception:
            self._found[index] = _UNKNOWN

    def leave(self) -> list[int]:
        """End ``run`` after the GPU that it is at: the first of those that are returned, which are not read yet."""
        self._left = True
        return [index for index in self._indexes if index not in self._found]

    def found(self) -> dict[int, Reading | int]:
        """What was read, or the code of what failed, as of now: a call that was given up may still end."""
        return dict(self._found)


def _reason(code: int | None) -> str:
    return gpu.UNRESPONSIVE if code is None else _LOST.get(code, f"{gpu.DRIVER_ERROR} {code}")


def _stranger(index: int) -> Device:
    return Device(f"GPU-unknown-{index}", index, "", _NOWHERE)


def _ordered(states: Iterable[DeviceState]) -> tuple[DeviceState, ...]:
    return tuple(sorted(states, key=lambda state: (state.device.index, state.device.uuid)))
