"""Applying the objects that belong to a custom resource: only what changed, deletes only with preconditions."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ollama_fleet.api import names
from ollama_fleet.controllers.drift import holds
from ollama_fleet.controllers.observation import owned
from ollama_fleet.kube import errors
from ollama_fleet.kube.client import KubeClient
from ollama_fleet.kube.kinds import Kind, kind_of
from ollama_fleet.manifests.prepull import LABEL_PULLS_FOR

Object = Mapping[str, Any]


class NameTaken(Exception):
    """An object of the name that a child needs exists and belongs to somebody else."""


@dataclass(slots=True)
class Children:
    """Applies children and remembers in which version of each the wish was last confirmed.

    The memory only spares requests: without it (after a restart) the live object is compared with the wish instead.
    """

    client: KubeClient
    _confirmed: dict[str, str] = field(default_factory=dict)

    async def apply(self, wish: Object, *, live: Object | None, owner: Object) -> bool:
        """Apply ``wish`` unless ``live`` already says it; returns whether a request was made.

        Raises NameTaken rather than seize an object of the same name that is not the owner's.
        """
        stamped = stamp(wish)
        if live is not None and self._holds(stamped, live):
            return False
        if live is None:
            await self._refuse_foreign(stamped, owner)
        applied = await self.client.apply(stamped)
        self._confirmed[applied["metadata"]["uid"]] = _version(applied)
        return True

    async def _refuse_foreign(self, wish: Object, owner: Object) -> None:
        """A forced apply would take over whatever has the name; the cache only knows objects with our label."""
        metadata = wish["metadata"]
        found = await self.client.get(kind_of(wish), metadata["namespace"], metadata["name"])
        if found is None or owned(found, owner):
            return
        if _left_behind(found, owner):
            raise errors.Conflict(f"{wish['kind']} {metadata['name']} of the deleted predecessor is still there")
        raise NameTaken(
            f"{wish['kind']} {metadata['name']} exists and does not belong to this OllamaDeployment: "
            "delete or rename it, or rename the OllamaDeployment"
        )

    def _holds(self, wish: Object, live: Object) -> bool:
        if applied_hash(live) != applied_hash(wish):
            return False
        uid = live["metadata"]["uid"]
        if self._confirmed.get(uid) == _version(live):
            return True
        if not holds(wish, live):
            return False
        self._confirmed[uid] = _version(live)
        return True

    async def prune(self, live: Iterable[Object], *, keep: Iterable[Object], groups: Iterable[str]) -> list[str]:
        """Delete the live objects that no wish names any more; returns what was deleted as ``Kind/name``.

        Jobs come and go with placements and not with the plan: those of the ``groups`` stay.
        """
        wanted, known = {(wish["kind"], wish["metadata"]["name"]) for wish in keep}, frozenset(groups)
        deleted = []
        for child in live:
            metadata = child["metadata"]
            kept = (child["kind"], metadata["name"]) in wanted or metadata["labels"].get(LABEL_PULLS_FOR) in known
            if kept or "deletionTimestamp" in metadata:
                continue
            kind: Kind = kind_of(child)
            await self.client.delete(kind, metadata["namespace"], metadata["name"], uid=metadata["uid"])
            self._confirmed.pop(metadata["uid"], None)
            deleted.append(f"{child['kind']}/{metadata['name']}")
        return deleted

    def forget(self, uid: str) -> None:
        """Drop the memory of an object that is gone."""
        self._confirmed.pop(uid, None)


def stamp(wish: Object) -> dict[str, Any]:
    """The wish with the hash of its own content as an annotation."""
    wire = json.dumps(wish, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(wire.encode()).hexdigest()[:16]
    metadata = dict(wish["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), names.ANNOTATION_APPLIED_HASH: digest}
    return {**wish, "metadata": metadata}


def applied_hash(child: Object) -> str:
    """The hash that an object was stamped with, empty if it never was."""
    found: str = child["metadata"].get("annotations", {}).get(names.ANNOTATION_APPLIED_HASH, "")
    return found


def _left_behind(child: Object, owner: Object) -> bool:
    """Whether the child belonged to an earlier object of the owner's name: the garbage collector is on its way."""
    return any(
        reference["kind"] == owner["kind"] and reference["name"] == owner["metadata"]["name"]
        for reference in child["metadata"].get("ownerReferences", ())
    )


def _version(child: Object) -> str:
    """What changes whenever somebody changes the wish's part of an object.

    ``generation`` leaves out status updates, which would otherwise make every pod start look like drift; kinds
    without one fall back to the resource version.
    """
    metadata = child["metadata"]
    return str(metadata.get("generation") or metadata["resourceVersion"])
