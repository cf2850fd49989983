"""What the fake driver shows."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MIB: Final = 2**20
GIB: Final = 2**30
NOT_AVAILABLE: Final = -1
"""Bytes of a process that the driver cannot tell."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a GPU or an instance of it."""

    pid: int
    used: int = NOT_AVAILABLE
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Mig:
    """A MIG instance. Its slot is its place in ``Gpu.mig``."""

    uuid: str
    total: int
    reserved: int = 0
    used: int = 0
    product: str = "NVIDIA A100-SXM4-40GB MIG 1g.5gb"
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU. Its index is its place in ``Driver.gpus``. Sizes are bytes."""

    uuid: str
    product: str = "NVIDIA H100 80GB HBM3"
    total: int = 80 * GIB
    reserved: int = 551 * MIB
    used: int = 0
    """Allocated by processes, without ``reserved``."""
    error: int = 0
    """The code that every call on it returns, e.g. 15 for a lost GPU and 16 for one that needs a reset."""
    hang_seconds: float = 0.0
    """Every call on it takes this long; ends early when the file says 0."""
    memory_code: int = 0
    """What the memory calls return, e.g. 3 (NOT_SUPPORTED) where CPU and GPU share the memory."""
    utilisation: int = 0
    """Percent."""
    celsius: int = 40
    milliwatt: int = 70_000
    ecc_uncorrected: int = 0
    remap_failed: bool = False
    mig: tuple[Mig | None, ...] | None = None
    """None: MIG is off. Otherwise up to seven slots, of which some may be empty."""
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Xid:
    """An error event. One that is there before a program listens is not told."""

    serial: int
    """Grows from event to event."""
    gpu: int
    code: int


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver of a node."""

    gpus: tuple[Gpu, ...] = ()
    version: str = "580.65.06"
    init_code: int = 0
    """What initialising returns, e.g. 18 when the library does not fit the driver."""
    cuda_code: int = 0
    """What starting CUDA returns, e.g. 999 in containers that lost their devices: computing fails, NVML goes on."""
    events_code: int = 0
    """What listening for error events returns, e.g. 3 (NOT_SUPPORTED) on virtual GPUs."""
    memory_v2_code: int = 0
    """What the second memory call returns, e.g. 13 (FUNCTION_NOT_FOUND) for old drivers."""
    reloads: int = 0
    """Another number than at the start: the driver was reloaded, and programs have to initialise again."""
    xids: tuple[Xid, ...] = ()


def eight(used: int = 0) -> Driver:
    """The driver of a node with eight GPUs, ``GPU-fake-0`` to ``GPU-fake-7``, each with ``used`` bytes allocated."""
    return Driver(tuple(Gpu(f"GPU-fake-{index}", used=used) for index in range(8)))


def write(path: Path, driver: Driver) -> None:
    """Show ``driver`` from the next call on. The file is replaced as a whole."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text("".join(f"{line}\n" for line in _lines(driver)))
    scratch.replace(path)


def _lines(driver: Driver) -> Iterable[str]:
    yield f"driver {driver.version}"
    yield f"init {driver.init_code}"
    yield f"cuda {driver.cuda_code}"
    yield f"events {driver.events_code}"
    yield f"memory_v2 {driver.memory_v2_code}"
    yield f"reloads {driver.reloads}"
    for index, gpu in enumerate(driver.gpus):
        yield _gpu(index, gpu)
        yield from _processes(index, -1, gpu.processes)
        for slot, mig in enumerate(gpu.mig or ()):
            if mig is not None:
                yield f"mig {index} {slot} {mig.uuid} {mig.total} {mig.reserved} {mig.used} {mig.product}"
                yield from _processes(index, slot, mig.processes)
    for xid in driver.xids:
        yield f"xid {xid.serial} {xid.gpu} {xid.code}"


def _gpu(index: int, gpu: Gpu) -> str:
    hang = round(gpu.hang_seconds * 1000)
    state = f"{gpu.error} {hang} {gpu.memory_code} {int(gpu.mig is not None)}"
    memory = f"{gpu.total} {gpu.reserved} {gpu.used}"
    sensors = f"{gpu.utilisation} {gpu.celsius} {gpu.milliwatt} {gpu.ecc_uncorrected} {int(gpu.remap_failed)}"
    return f"gpu {index} {gpu.uuid} {state} {memory} {sensors} {gpu.product}"


def _processes(index: int, slot: int, processes: Iterable[Process]) -> Iterable[str]:
    for process in processes:
        yield f"process {index} {slot} {process.pid} {process.used}"
