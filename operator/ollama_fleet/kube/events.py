"""Kubernetes events that aggregate: the same thing said again is a higher count, not another event.

Core ``v1`` events rather than ``events.k8s.io/v1``: both are one object in the API server and look the
same to kubectl, but only the former may update its message, so a repeated event shows the newest figures.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, Protocol

from ollama_fleet.kube import errors
from ollama_fleet.kube.backoff import TokenBucket
from ollama_fleet.kube.client import MERGE_PATCH
from ollama_fleet.kube.kinds import EVENT, Kind
from ollama_fleet.kube.transport import Json

logger = logging.getLogger(__name__)

EventType = Literal["Normal", "Warning"]

MAX_SERIES: Final = 1024
MAX_MESSAGE: Final = 1024
"""Bytes that the API server allows."""
SERIES_SECONDS: Final = 600.0
"""After this much silence the same thing is a new event."""
FLUSH_SECONDS: Final = 1.0
UPDATE_SECONDS: Final = 60.0
"""A repeated event is written at most this often."""


class EventClient(Protocol):
    """The part of the client that a recorder uses."""

    async def create(self, obj: Json) -> Json:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""

    async def patch(self, kind: Kind, namespace: str | None, name: str, body: Any, *, content_type: str) -> Json:
        """As :class:`~ollama_fleet.kube.client.KubeClient`."""


@dataclass(slots=True)
class _Series:
    namespace: str
    name: str
    regarding: Json
    event_type: EventType
    reason: str
    message: str
    first: str
    last: str
    count: int = 1
    recorded_at: float = 0.0
    written_at: float | None = None
    written_count: int = 0


Topic = tuple[str, EventType, str, str]


class EventRecorder:
    """``record`` never blocks and never fails; ``run`` writes. At most 1024 series are remembered."""

    def __init__(
        self,
        client: EventClient,
        *,
        component: str,
        instance: str,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``component`` and ``instance`` name who reports (the operator, the pod)."""
        self.dropped = 0
        """Events that were never written: too many series, or the API server refused them."""
        self._client = client
        self._component = component
        self._instance = instance
        self._clock = clock
        self._now = now
        self._sleep = sleep
        self._series: OrderedDict[Topic, _Series] = OrderedDict()
        self._bucket = TokenBucket(rate=5, burst=50, clock=clock)

    def record(
        self,
        regarding: Mapping[str, Any],
        *,
        reason: str,
        message: str,
        event_type: EventType = "Normal",
        topic: str = "",
    ) -> None:
        """Say ``message`` about the object ``regarding`` (apiVersion, kind, metadata with name and uid).

        The same object, type, reason and ``topic`` (for example a model) make one event with a count and
        the newest message.
        """
        metadata = regarding["metadata"]
        key: Topic = (str(metadata.get("uid", "")), event_type, reason, topic)
        message = message.encode()[:MAX_MESSAGE].decode(errors="ignore")
        now = self._clock()
        known = self._series.get(key)
        if known is not None and now - known.recorded_at < SERIES_SECONDS:
            known.count += 1
            known.message = message
            known.last = self._stamp()
            known.recorded_at = now
            self._series.move_to_end(key)
            return
        self._series[key] = self._begin(key, regarding, message, now)
        self._series.move_to_end(key)
        while len(self._series) > MAX_SERIES:
            _, oldest = self._series.popitem(last=False)
            self.dropped += oldest.written_count == 0

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is due, as far as the rate allows."""
        now = self._clock()
        for key, series in list(self._series.items()):
            if series.written_count == series.count:
                if now - series.recorded_at > SERIES_SECONDS:
                    self._series.pop(key, None)
                continue
            if series.written_at is not None and now - series.written_at < UPDATE_SECONDS:
                continue
            if not self._bucket.take():
                return
            await self._write(series)

    async def _write(self, series: _Series) -> None:
        count = series.count
        series.written_at = self._clock()
        try:
            if not (series.written_count and await self._update(series)):
                await self._create(series)
        except errors.Retryable as error:
            # It stays due and is tried again after UPDATE_SECONDS.
            logger.debug("event not written", extra={"reason": series.reason, "error": str(error)})
            return
        except errors.KubeError as error:
            # A terminating namespace, a missing permission: trying again would not help.
            self.dropped += 1
            logger.warning("event refused", extra={"reason": series.reason, "error": str(error)})
        series.written_count = count

    async def _create(self, series: _Series) -> None:
        try:
            await self._client.create(self._event(series))
        except errors.AlreadyExists:
            # The answer to an earlier try was lost.
            await self._update(series)

    async def _update(self, series: _Series) -> bool:
        """False if the event has expired: the API server keeps events for an hour."""
        body = {"count": series.count, "message": series.message, "lastTimestamp": series.last}
        try:
            await self._client.patch(EVENT, series.namespace, series.name, body, content_type=MERGE_PATCH)
        except errors.NotFound:
            return False
        return True

    def _begin(self, key: Topic, regarding: Mapping[str, Any], message: str, now: float) -> _Series:
        metadata = regarding["metadata"]
        stamp = self._stamp()
        digest = hashlib.sha256("\0".join((*key, stamp)).encode()).hexdigest()[:16]
        namespace = metadata.get("namespace") or "default"
        reference = {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
            **({"namespace": metadata["namespace"]} if metadata.get("namespace") else {}),
        }
        return _Series(
            namespace=namespace,
            name=f"{metadata['name'][:236]}.{digest}",
            regarding=reference,
            event_type=key[1],
            reason=key[2],
            message=message,
            first=stamp,
            last=stamp,
            recorded_at=now,
        )

    def _event(self, series: _Series) -> Json:
        return {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.kind,
            "metadata": {"name": series.name, "namespace": series.namespace},
            "involvedObject": series.regarding,
            "type": series.event_type,
            "reason": series.reason,
            "message": series.message,
            "firstTimestamp": series.first,
            "lastTimestamp": series.last,
            "count": series.count,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }

    def _stamp(self) -> str:
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
