"""The agent's reader against the library that nvidia-ml-py really loads; no driver is needed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest

from ollama_fleet.agent.gpu import Device, GpuProcess, GpuView, Memory
from ollama_fleet.agent.nvml import Nvml
from ollama_fleet.agent.reader import GpuReader
from testbed.fakes.nvml import GIB, MIB, Driver, Gpu, Mig, Process, Xid, eight, write
from tests.support import fake_driver

SYSTEM = Memory(total=128 * GIB, reserved=0, used=28 * GIB, free=100 * GIB, source="system")
EIGHT = eight(used=GIB)

Show = Callable[[Driver], None]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Show:
    state = fake_driver.use(monkeypatch, tmp_path)
    return lambda driver: write(state, driver)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reader(clock: Clock) -> GpuReader:
    return GpuReader(Nvml(system_memory=lambda: SYSTEM), deadline=0.3, clock=clock)


def devices(view: GpuView) -> dict[str, Device]:
    return {state.device.uuid: state.device for state in view.devices}


def reasons(view: GpuView) -> dict[str, str]:
    return {state.device.uuid: state.reason for state in view.devices if state.reason}


def with_gpu(index: int, **changes: object) -> Driver:
    gpus = list(EIGHT.gpus)
    gpus[index] = replace(gpus[index], **changes)  # type: ignore[arg-type]
    return replace(EIGHT, gpus=tuple(gpus))


def test_eight_gpus_are_read_with_all_their_figures(show: Show, reader: GpuReader) -> None:
    processes = (Process(4711, 900 * MIB), Process(12))
    show(with_gpu(5, processes=processes, utilisation=93, celsius=71, milliwatt=412_500, ecc_uncorrected=2))
    view = reader.read()
    assert (view.driver, view.problem, len(view.devices)) == ("580.65.06", "", 8)
    memory = Memory(total=80 * GIB, reserved=551 * MIB, used=GIB, free=79 * GIB - 551 * MIB)
    found = devices(view)["GPU-fake-5"]
    assert found == Device(
        "GPU-fake-5", 5, "NVIDIA H100 80GB HBM3", memory, (GpuProcess(12, None), GpuProcess(4711, 900 * MIB))
    )
    sensors = view.sensors["GPU-fake-5"]
    assert (sensors.utilisation, sensors.celsius, sensors.watts, sensors.ecc_uncorrected) == (93, 71, 412.5, 2)
    assert reasons(view) == {}


def test_changes_are_seen_at_the_next_look(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(with_gpu(0, used=70 * GIB))
    assert devices(reader.read())["GPU-fake-0"].memory.used == 70 * GIB


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH])
def test_an_old_driver_counts_the_reserve_as_used(show: Show, reader: GpuReader, code: int) -> None:
    show(replace(EIGHT, memory_v2_code=code))
    memory = devices(reader.read())["GPU-fake-0"].memory
    assert memory == Memory(total=80 * GIB, reserved=0, used=GIB + 551 * MIB, free=79 * GIB - 551 * MIB)


def test_shared_memory_is_the_nodes(show: Show, reader: GpuReader) -> None:
    show(Driver((Gpu("GPU-gb10", product="NVIDIA GB10", memory_code=pynvml.NVML_ERROR_NOT_SUPPORTED),)))
    view = reader.read()
    assert devices(view)["GPU-gb10"].memory == SYSTEM
    assert reasons(view) == {}


def test_instances_of_a_split_gpu_are_devices(show: Show, reader: GpuReader) -> None:
    instance = Mig("MIG-1", total=10 * GIB, reserved=MIB, used=2 * GIB, processes=(Process(9, GIB),))
    show(Driver((Gpu("GPU-a", mig=(None, instance, replace(instance, uuid="MIG-2", processes=()))), Gpu("GPU-b"))))
    found = devices(reader.read())
    assert list(found) == ["MIG-1", "MIG-2", "GPU-b"]
    assert (found["MIG-1"].parent, found["MIG-1"].index) == ("GPU-a", 0)
    assert found["MIG-1"].memory == Memory(10 * GIB, MIB, 2 * GIB, 8 * GIB - MIB)
    assert found["MIG-1"].processes == (GpuProcess(9, GIB),)
    assert found["MIG-2"].processes == ()


def test_instances_that_are_taken_apart_are_gone(show: Show, reader: GpuReader) -> None:
    show(Driver((Gpu("GPU-a", mig=(Mig("MIG-1", total=GIB),)),)))
    reader.read()
    show(Driver((Gpu("GPU-a"),)))
    assert list(devices(reader.read())) == ["GPU-a"]


@pytest.mark.parametrize(
    ("code", "reason"), [(15, "GPULost"), (16, "ResetRequired"), (999, "DriverError 999"), (2, "DriverError 2")]
)
def test_a_lost_gpu_hides_no_other(show: Show, reader: GpuReader, code: int, reason: str) -> None:
    show(EIGHT)
    reader.read()
    show(with_gpu(3, error=code))
    view = reader.read()
    assert reasons(view) == {"GPU-fake-3": reason}
    assert len(view.devices) == 8
    assert devices(view)["GPU-fake-3"].memory.used == GIB
    assert "GPU-fake-3" not in view.sensors or view.sensors["GPU-fake-3"].celsius is None


def test_instances_of_a_lost_gpu_stay_in_sight(show: Show, reader: GpuReader) -> None:
    gpu = Gpu("GPU-a", mig=(Mig("MIG-1", total=GIB), Mig("MIG-2", total=GIB)))
    show(Driver((gpu,)))
    reader.read()
    show(Driver((replace(gpu, error=15),)))
    assert reasons(reader.read()) == {"MIG-1": "GPULost", "MIG-2": "GPULost"}


def test_a_gpu_that_was_lost_from_the_start_counts(show: Show, reader: GpuReader) -> None:
    show(with_gpu(2, error=15))
    view = reader.read()
    assert len(view.devices) == 8
    assert reasons(view) == {"GPU-unknown-2": "GPULost"}


def test_a_gpu_has_to_prove_itself_before_it_is_healthy_again(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(with_gpu(3, error=15))
    reader.read()
    show(EIGHT)
    seen = [reasons(reader.read()) for _ in range(4)]
    assert seen == [{"GPU-fake-3": "GPULost"}, {"GPU-fake-3": "GPULost"}, {}, {}]


def test_a_gpu_that_hangs_costs_one_deadline_and_hides_no_other(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(with_gpu(6, hang_seconds=30))
    started = time.monotonic()
    view = reader.read()
    first = time.monotonic() - started
    assert 0.3 <= first < 1.0
    assert reasons(view) == {"GPU-fake-6": "Unresponsive"}
    started = time.monotonic()
    assert reasons(reader.read()) == {"GPU-fake-6": "Unresponsive"}
    assert time.monotonic() - started < 0.2
    show(EIGHT)
    deadline = time.monotonic() + 10
    while reasons(reader.read()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert reasons(reader.read()) == {}


def test_a_reloaded_driver_is_started_again(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(replace(EIGHT, reloads=1, version="590.1"))
    assert set(reasons(reader.read()).values()) == {"DriverAway"}
    view = reader.read()
    assert (view.driver, len(view.devices), reasons(view)) == ("590.1", 8, {})


def test_a_library_that_does_not_fit_the_driver_is_tried_again(show: Show, reader: GpuReader, clock: Clock) -> None:
    show(EIGHT)
    reader.read()
    mismatch = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    show(replace(EIGHT, reloads=1, init_code=mismatch))
    reader.read()
    view = reader.read()
    assert (view.driver, len(view.devices)) == ("", 8)
    assert "mismatch" in view.problem
    show(replace(EIGHT, reloads=1))
    assert reader.read().driver == ""
    clock.now += 11
    assert (reader.read().driver, reasons(reader.read())) == ("580.65.06", {})


def test_gpus_that_do_not_come_back_with_the_driver_are_lost(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(replace(EIGHT, reloads=1, gpus=EIGHT.gpus[:6]))
    reader.read()
    view = reader.read()
    assert reasons(view) == {"GPU-fake-6": "GPULost", "GPU-fake-7": "GPULost"}
    assert len(view.devices) == 8


def test_an_error_of_the_gpu_condemns_it_until_the_driver_is_reloaded(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    event = Xid(serial=1, gpu=4, code=79)
    show(replace(EIGHT, xids=(event,)))
    assert reasons(reader.read()) == {"GPU-fake-4": "XID 79"}
    show(EIGHT)
    for _ in range(4):
        assert reasons(reader.read()) == {"GPU-fake-4": "XID 79"}
    show(replace(EIGHT, reloads=1))
    reader.read()
    assert reasons(reader.read()) == {}


def test_an_error_of_a_program_is_none_of_the_gpu_but_counted(show: Show, reader: GpuReader) -> None:
    show(EIGHT)
    reader.read()
    show(replace(EIGHT, xids=(Xid(1, 4, 31), Xid(2, 4, 13), Xid(3, 4, 31))))
    view = reader.read()
    assert reasons(view) == {}
    assert view.xids["GPU-fake-4"] == {31: 2, 13: 1}
    assert view.xids["GPU-fake-3"] == {}


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_a_gpu_that_tells_no_errors_is_read_all_the_same(show: Show, reader: GpuReader, code: int) -> None:
    show(replace(EIGHT, events_code=code))
    for _ in range(2):
        view = reader.read()
        assert (len(view.devices), reasons(view)) == (8, {})


def test_rows_that_cannot_be_replaced(show: Show, reader: GpuReader) -> None:
    show(with_gpu(1, remap_failed=True))
    assert reasons(reader.read()) == {"GPU-fake-1": "RowRemapFailed"}


def test_a_driver_that_is_not_there_yet(show: Show, reader: GpuReader, clock: Clock) -> None:
    show(Driver(init_code=pynvml.NVML_ERROR_DRIVER_NOT_LOADED))
    assert reader.read() == GpuView()
    show(EIGHT)
    clock.now += 11
    assert len(reader.read().devices) == 8


def test_a_node_without_the_library_has_no_gpu() -> None:
    script = (
        "from ollama_fleet.agent.nvml import Nvml; from ollama_fleet.agent.reader import GpuReader;"
        "from ollama_fleet.agent.system import system_memory;"
        "print(GpuReader(Nvml(system_memory=system_memory)).read(), system_memory().total > 0)"
    )
    clean = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout == f"{GpuView()} True\n"
