"""The GPUs of a node as they would be without the pods that run, and what the node offers of them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from testbed.fakes.nvml import MIB, Driver, Gpu

RESOURCE: Final = "nvidia.com/gpu"

# Errors of programs, which NVIDIA's device plugin ignores.
_APPLICATION_XIDS: Final = frozenset({13, 31, 43, 45, 68, 109})


@dataclass(frozen=True, slots=True)
class Hardware:
    """A driver, and how the node's GPUs are offered."""

    driver: Driver
    replicas: int = 1
    """Shares of each device (time slicing). Their ids are ``UUID::NUMBER``."""
    mixed: bool = False
    """MIG strategy: each profile is a resource of its own; otherwise instances are GPUs like others."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the device plugin tells the kubelet of one device."""

    id: str
    healthy: bool


_FORM: Final = TypeAdapter(Hardware)


def cards(node: str, count: int) -> Hardware:
    """GPUs of one kind for a node, ``GPU-NODE-0`` and so on."""
    gpu = Gpu("", "NVIDIA L4", total=23034 * MIB, reserved=458 * MIB)
    return Hardware(Driver(tuple(replace(gpu, uuid=f"GPU-{node}-{index}") for index in range(count))))


def read(path: Path) -> Hardware:
    """As it was written. Raises OSError."""
    return _FORM.validate_json(path.read_bytes())


def write(path: Path, hardware: Hardware) -> None:
    """The file is replaced as a whole."""
    scratch = path.with_name(f".{path.name}")
    scratch.write_bytes(_FORM.dump_json(hardware))
    scratch.replace(path)


def offers(hardware: Hardware) -> dict[str, tuple[Offer, ...]]:
    """By resource; without a device there is still ``nvidia.com/gpu``."""
    found: dict[str, list[Offer]] = defaultdict(list, {RESOURCE: []})
    for resource, uuid, healthy in _devices(hardware):
        shares = [uuid] if hardware.replicas == 1 else [f"{uuid}::{share}" for share in range(hardware.replicas)]
        found[resource] += [Offer(share, healthy) for share in shares]
    return {resource: tuple(devices) for resource, devices in found.items()}


def labels(hardware: Hardware) -> Mapping[str, str | None]:
    """What GPU feature discovery writes on the node, as far as anybody reads it; None is no label.

    All GPUs are of one product.
    """
    gpu = hardware.driver.gpus[0]
    part = next((one for one in gpu.mig or () if one is not None), None)
    shown = part if part is not None and not hardware.mixed else gpu
    product = shown.product.replace(" ", "-") + ("-SHARED" if hardware.replicas > 1 else "")
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.count": str(len(hardware.driver.gpus)),
        "nvidia.com/gpu.replicas": str(hardware.replicas),
        "nvidia.com/gpu.sharing-strategy": "time-slicing" if hardware.replicas > 1 else "none",
        "nvidia.com/mig.strategy": "mixed" if hardware.mixed else "single",
        "nvidia.com/cuda.driver-version.full": hardware.driver.version,
        "nvidia.com/gpu.memory": None if gpu.memory_code else str(shown.total // MIB),
    }


def _devices(hardware: Hardware) -> Iterator[tuple[str, str, bool]]:
    """Resource, UUID and health."""
    for index, gpu in enumerate(hardware.driver.gpus):
        healthy = _healthy(hardware.driver, index, gpu)
        if gpu.mig is None:
            yield RESOURCE, gpu.uuid, healthy
        for part in gpu.mig or ():
            if part is not None:
                profile = part.product.rpartition(" ")[2]
                yield f"nvidia.com/mig-{profile}" if hardware.mixed else RESOURCE, part.uuid, healthy


def _healthy(driver: Driver, index: int, gpu: Gpu) -> bool:
    told = {xid.code for xid in driver.xids if xid.gpu == index}
    return not gpu.error and told <= _APPLICATION_XIDS
