"""The Ollama pods of this node, followed by a watch."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_fleet.agent.apiserver import ApiFailed, ApiServer, Json
from ollama_fleet.api import names
from ollama_fleet.kube.backoff import Backoff

logger = logging.getLogger(__name__)

_PATH: Final = "/api/v1/pods"
_LABELS: Final = f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY},{names.LABEL_COMPONENT}=server"
_MAX_PODS: Final = 512
_ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Pod:
    """An Ollama pod."""

    uid: str
    name: str
    """``namespace/name``."""
    ip: str = ""


@dataclass(slots=True)
class Pods:
    """``by_uid`` is what the API server last said; while it cannot be reached, that stays."""

    api: ApiServer
    node: str
    backoff: Backoff = field(default_factory=lambda: Backoff(first=1.0, limit=30.0))
    by_uid: dict[str, Pod] = field(default_factory=dict)
    listed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the pods are known."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at every change; whoever waits for it clears it."""

    async def run(self) -> None:
        """Follow until cancelled."""
        failures = 0
        while True:
            try:
                async with aclosing(self.follow()) as events:
                    async for watched in events:
                        # A list proves little: the server may refuse each watch that follows.
                        failures = 0 if watched else failures
                # A server that ends every watch at once must not be asked without a pause.
                await asyncio.sleep(self.backoff.delay(1))
            except ApiFailed as error:
                failures += 1
                if failures == 1:
                    logger.warning("pods of the node are not told", extra={"reason": str(error)})
                await asyncio.sleep(self.backoff.delay(failures))

    async def follow(self) -> AsyncGenerator[bool, None]:
        """List, then watch until the server ends it. Raises ApiFailed.

        Yields after the list (False) and after each event of the watch (True).
        """
        query = {"fieldSelector": f"spec.nodeName={self.node}", "labelSelector": _LABELS}
        listed = await self.api.list(_PATH, **query)
        pods = [_pod(item) for item in (listed.get("items") or ())[:_MAX_PODS]]
        self.by_uid = {pod.uid: pod for pod in pods if pod is not None}
        self.listed.set()
        self.changed.set()
        yield False
        version = str((listed.get("metadata") or {}).get("resourceVersion", ""))
        async with aclosing(self.api.watch(_PATH, version=version, **query)) as events:
            async for event in events:
                self._apply(event)
                yield True

    def _apply(self, event: Json) -> None:
        self.changed.set()
        item = event.get("object") or {}
        uid = str((item.get("metadata") or {}).get("uid", ""))
        pod = None if event.get("type") == "DELETED" else _pod(item)
        if pod is None:
            self.by_uid.pop(uid, None)
        elif event.get("type") in {"ADDED", "MODIFIED"} and (uid in self.by_uid or len(self.by_uid) < _MAX_PODS):
            self.by_uid[uid] = pod


def _pod(item: Mapping[str, Any]) -> Pod | None:
    """None for one that has ended, or is none."""
    metadata, status = item.get("metadata") or {}, item.get("status") or {}
    if status.get("phase") in _ENDED or not metadata.get("uid"):
        return None
    name = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
    return Pod(str(metadata["uid"]), name, str(status.get("podIP") or ""))
