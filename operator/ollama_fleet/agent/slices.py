"""UUIDs of devices that were given by dynamic resource allocation, from the node's ResourceSlices."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_fleet.agent.apiserver import ApiFailed, ApiServer
from ollama_fleet.agent.podresources import ClaimedDevice

_PATH: Final = "/apis/resource.k8s.io/v1/resourceslices"
_AGAIN_SECONDS: Final = 60.0
_MAX_SLICES: Final = 64
_MAX_DEVICES: Final = 128
"""Per slice; the API server allows as many."""


@dataclass(slots=True)
class Slices:
    """Asked only when a pod has such a device."""

    api: ApiServer
    node: str
    clock: Callable[[], float] = time.monotonic
    uuids: dict[ClaimedDevice, str] = field(default_factory=dict)
    _next: float = 0.0

    async def learn(self, claimed: Iterable[ClaimedDevice]) -> None:
        """Look for devices that are not known, at most once a minute. What fails is tried again then."""
        if self.clock() < self._next or all(one in self.uuids for one in claimed):
            return
        self._next = self.clock() + _AGAIN_SECONDS
        try:
            listed = await self.api.list(_PATH, fieldSelector=f"spec.nodeName={self.node}")
        except ApiFailed:
            return
        self.uuids = uuids(listed)


def uuids(listed: Mapping[str, Any]) -> dict[ClaimedDevice, str]:
    """UUIDs by device of a ResourceSliceList; drivers write them as the attribute ``uuid``."""
    found = {}
    for item in (listed.get("items") or ())[:_MAX_SLICES]:
        spec = item.get("spec") or {}
        for device in (spec.get("devices") or ())[:_MAX_DEVICES]:
            uuid = ((device.get("attributes") or {}).get("uuid") or {}).get("string")
            if uuid:
                pool = (spec.get("pool") or {}).get("name", "")
                found[ClaimedDevice(spec.get("driver", ""), pool, device.get("name", ""))] = str(uuid)
    return found
