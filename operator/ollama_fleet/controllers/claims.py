"""The PersistentVolumeClaim behind a cache of type ``Claim``, which people make and only they change."""

from typing import Protocol

from ollama_fleet.api.ollamadeployment import StorageSpec
from ollama_fleet.kube.kinds import PERSISTENT_VOLUME_CLAIM, Kind
from ollama_fleet.kube.transport import Json
from ollama_fleet.planning.request import ClaimView


class Reader(Protocol):
    """The part of the client that is used."""

    async def get(self, kind: Kind, namespace: str | None, name: str) -> Json | None:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""


async def read(client: Reader, storage: StorageSpec | None, *, namespace: str | None) -> ClaimView | None:
    """The claim that the storage names; None where there is none or none is named. Few claims: read, not watched."""
    name = storage.cache.claim_name if storage and storage.cache else None
    claim = await client.get(PERSISTENT_VOLUME_CLAIM, namespace, name) if name else None
    if claim is None:
        return None
    return ClaimView(frozenset(claim["spec"].get("accessModes", ())), claim["metadata"]["uid"])
