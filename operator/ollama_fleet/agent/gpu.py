"""What is known of a node's GPUs. Sizes are bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

LOST: Final = "GPULost"
RESET_REQUIRED: Final = "ResetRequired"
UNRESPONSIVE: Final = "Unresponsive"
DRIVER_AWAY: Final = "DriverAway"
DRIVER_ERROR: Final = "DriverError"
REMAP_FAILED: Final = "RowRemapFailed"
XID: Final = "XID"
"""Followed by the number."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a device. ``total`` is the sum of the others."""

    total: int
    reserved: int
    """What the driver and firmware keep."""
    used: int
    free: int
    source: Literal["nvml", "system"] = "nvml"
    """``system``: GPU and CPU share the node's memory, and the driver cannot tell."""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with memory on a device."""

    pid: int
    """In the namespace of the driver: the node's."""
    used: int | None
    """None where the driver cannot tell."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or an instance of one that is split (MIG)."""

    uuid: str
    index: int
    """The driver's number of the GPU; instances have that of their GPU."""
    product: str
    memory: Memory
    processes: tuple[GpuProcess, ...] = ()
    parent: str = ""
    """UUID of the GPU that an instance is part of."""


@dataclass(frozen=True, slots=True)
class Sensors:
    """Figures of a whole GPU; None where it has no such sensor."""

    utilisation: int | None = None
    """Percent of the last sample period in which a kernel ran."""
    celsius: int | None = None
    watts: float | None = None
    ecc_uncorrected: int | None = None
    """Errors since the driver was loaded."""
    remap_failed: bool = False
    """A broken row of the memory could not be replaced."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at one GPU."""

    uuid: str
    devices: tuple[Device, ...]
    """The GPU itself, or its instances where it is split."""
    sensors: Sensors
    xids: tuple[int, ...] = ()
    """Errors that the driver told since the look before."""


@dataclass(frozen=True, slots=True)
class DeviceState:
    """A device and whether new work can run on it."""

    device: Device
    """As last seen."""
    reason: str = ""
    """Why it is not healthy; empty when it is."""


@dataclass(frozen=True, slots=True)
class GpuView:
    """All GPUs of the node."""

    driver: str = ""
    """Version; empty without a driver."""
    problem: str = ""
    """Why the driver does not work; empty when it does, and when there is none."""
    devices: tuple[DeviceState, ...] = ()
    """By index, then UUID. Once seen, a GPU stays until the agent restarts."""
    sensors: Mapping[str, Sensors] = field(default_factory=dict)
    """By UUID of the GPU."""
    xids: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By UUID of the GPU: how often the driver told which error since this agent started, programs' errors included."""
