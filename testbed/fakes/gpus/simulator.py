"""Who is on which GPU with how much: found in the processes of the machine, shown by the driver.

A server of the image variant with GPUs has the bytes of its CUDA buffers in a memory file behind a known number among
its file descriptors; the real driver knows them from the server's calls. They are gone when the process is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from testbed.fakes.nvml import MIB, Driver, Gpu, Mig, Process
from testbed.images.ollama.cuda import ALLOCATIONS, ALLOCATIONS_NAME

CONTEXT: Final = 400 * MIB
"""What a process has on a GPU before its first buffer."""

_Device = TypeVar("_Device", Gpu, Mig)
_LINK: Final = f"/memfd:{ALLOCATIONS_NAME} (deleted)"


@dataclass(frozen=True, slots=True)
class Claim:
    """A process that uses CUDA."""

    pid: int
    """On the machine."""
    buffers: int
    """Bytes."""
    visible: frozenset[str]
    """UUIDs of the devices that its container was given."""
    ordinal: int
    """Which of them it chose."""


def claims(proc: Path = Path("/proc")) -> Iterator[Claim]:
    """All processes of the machine that use CUDA."""
    for directory in proc.glob("[0-9]*"):
        file = directory / "fd" / str(ALLOCATIONS)
        try:
            # Only then: reading another file of this number could take for ever.
            if str(file.readlink()) != _LINK:
                continue
            buffers, entries = file.read_text(), (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        environment = dict(entry.decode(errors="replace").partition("=")[::2] for entry in entries)
        visible = frozenset(environment.get("NVIDIA_VISIBLE_DEVICES", "").split(","))
        chosen = environment.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
        yield Claim(int(directory.name), int(buffers or 0), visible, int(chosen) if chosen.isdigit() else 0)


def occupied(driver: Driver, found: Iterable[Claim]) -> Driver:
    """The driver with the processes on its devices."""
    taken: dict[str, list[Process]] = {}
    for claim in sorted(found, key=lambda one: one.pid):
        mine = [uuid for uuid in _uuids(driver) if uuid in claim.visible]
        if claim.ordinal < len(mine):
            taken.setdefault(mine[claim.ordinal], []).append(Process(claim.pid, claim.buffers + CONTEXT))
    return replace(driver, gpus=tuple(_gpu(gpu, taken) for gpu in driver.gpus))


def _uuids(driver: Driver) -> Iterator[str]:
    for gpu in driver.gpus:
        if gpu.mig is None:
            yield gpu.uuid
        yield from (part.uuid for part in gpu.mig or () if part is not None)


def _gpu(gpu: Gpu, taken: dict[str, list[Process]]) -> Gpu:
    parts = gpu.mig and tuple(part and _with(part, taken) for part in gpu.mig)
    return replace(_with(gpu, taken), mig=parts)


def _with(device: _Device, taken: dict[str, list[Process]]) -> _Device:
    found: list[Process] = taken.get(device.uuid, [])
    used = device.used + sum(process.used for process in found)
    return replace(device, used=used, processes=(*device.processes, *found))
