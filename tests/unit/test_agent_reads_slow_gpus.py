"""GPUs that answer late: what that costs, and that nothing which the driver tells only once is lost."""

import threading
import time
from collections.abc import Iterator

import pytest

from ollama_fleet.agent.gpu import Device, GpuView, Memory, Reading, Sensors
from ollama_fleet.agent.nvml import NvmlFailed
from ollama_fleet.agent.reader import GpuReader

UNINITIALIZED = 1


class Library:
    """Eight GPUs. A read of ``slow`` takes the ``xids`` from the driver, then waits for ``answers``."""

    def __init__(self) -> None:
        self.pause = 0.0
        self.slow: int | None = None
        self.answers = threading.Event()
        self.xids: tuple[int, ...] = ()
        self.reloaded = False

    def start(self) -> tuple[str, int]:
        self.reloaded = False
        return "580", 8

    def read(self, index: int) -> Reading:
        time.sleep(self.pause)
        if self.reloaded:
            raise NvmlFailed(UNINITIALIZED, "uninitialised")
        xids: tuple[int, ...] = ()
        if index == self.slow:
            xids, self.xids = self.xids, ()
            self.answers.wait()
        device = Device(f"GPU-{index}", index, "L4", Memory(4, 0, 0, 4))
        return Reading(device.uuid, (device,), Sensors(), xids)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setattr("ollama_fleet.agent.reader._PATIENCE_SECONDS", 0.01)
    made = Library()
    yield made
    made.answers.set()


@pytest.fixture
def reader(library: Library) -> GpuReader:
    """It has seen all GPUs."""
    made = GpuReader(library, deadline=0.4)
    made.read()
    return made


def reasons(view: GpuView) -> dict[str, str]:
    return {state.device.uuid: state.reason for state in view.devices if state.reason}


def let_it_answer(library: Library, reader: GpuReader) -> GpuView:
    """The first look after the call that hung has ended."""
    library.slow = None
    library.answers.set()
    deadline = time.monotonic() + 10
    while {"Unresponsive", "GPULost"}.intersection(reasons(view := reader.read()).values()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return view


def test_slow_gpus_cost_a_thread_each_and_no_more(library: Library) -> None:
    reader = GpuReader(library, deadline=5)
    before = threading.active_count()
    library.pause = 0.005
    for _ in range(10):
        assert reasons(reader.read()) == {}
    assert threading.active_count() - before <= 8


def test_an_error_that_a_call_brings_after_it_was_given_up_counts(library: Library, reader: GpuReader) -> None:
    library.slow, library.xids = 3, (31, 79)
    assert reasons(reader.read()) == {"GPU-3": "Unresponsive"}
    view = let_it_answer(library, reader)
    assert reasons(view) == {"GPU-3": "XID 79"}
    assert view.xids["GPU-3"] == {31: 1, 79: 1}
    assert reader.read().xids["GPU-3"] == {31: 1, 79: 1}, "once"


def test_an_error_from_before_the_driver_was_loaded_again_counts_no_more(library: Library, reader: GpuReader) -> None:
    library.slow, library.xids = 3, (79,)
    reader.read()
    library.slow, library.reloaded = None, True
    assert set(reasons(reader.read()).values()) == {"DriverAway"}
    reader.read()
    assert reasons(let_it_answer(library, reader)) == {}
