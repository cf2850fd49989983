"""Which pod the kubelet gave which device: its PodResources API, version 1.

Messages: ``k8s.io/kubelet/pkg/apis/podresources/v1/api.proto``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ollama_fleet.agent.protobuf import parts, text

LIST: Final = "/v1.PodResourcesLister/List"
_REPLICA: Final = "::"


@dataclass(frozen=True, slots=True)
class ClaimedDevice:
    """A device by its place in a ResourceSlice (dynamic resource allocation)."""

    driver: str
    pool: str
    device: str


@dataclass(frozen=True, slots=True)
class PodDevices:
    """What one pod was given."""

    pod: str
    """``namespace/name``."""
    ids: tuple[str, ...] = ()
    """Of device plugins, e.g. ``GPU-...``, ``MIG-...`` or, for a share of a GPU, ``GPU-...::2``."""
    claimed: tuple[ClaimedDevice, ...] = ()


def parse_list(answer: bytes) -> tuple[PodDevices, ...]:
    """The pods with devices of a ``ListPodResourcesResponse``. Raises Malformed."""
    found = (_pod(message) for message in parts(memoryview(answer), 1))
    return tuple(pod for pod in found if pod.ids or pod.claimed)


def holders(pods: Iterable[PodDevices], slices: Mapping[ClaimedDevice, str]) -> dict[str, tuple[str, ...]]:
    """Pods by the UUID of the device that they were given, sorted; ``slices`` are the UUIDs of claimed devices."""
    found: dict[str, set[str]] = {}
    for pod in pods:
        uuids = [one.partition(_REPLICA)[0] for one in pod.ids]
        uuids += [slices[one] for one in pod.claimed if one in slices]
        for uuid in uuids:
            found.setdefault(uuid, set()).add(pod.pod)
    return {uuid: tuple(sorted(names)) for uuid, names in found.items()}


def _pod(message: memoryview) -> PodDevices:
    containers = list(parts(message, 3))
    ids = tuple(
        bytes(one).decode(errors="replace")
        for container in containers
        for devices in parts(container, 2)
        for one in parts(devices, 2)
    )
    claimed = tuple(
        ClaimedDevice(text(one, 2), text(one, 3), text(one, 4))
        for container in containers
        for resource in parts(container, 5)
        for one in parts(resource, 4)
    )
    return PodDevices(f"{text(message, 2)}/{text(message, 1)}", ids, claimed)
