"""A cache of one kind that follows the API server for ever.

List once, then watch; after a break go on where the watch stood, and list again when the server has
forgotten that point. What vanished during a gap is found by comparing the list with the cache.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final, Protocol

from ollama_fleet.kube import cancelling, errors
from ollama_fleet.kube.backoff import Backoff
from ollama_fleet.kube.cache import Cache, Changes, Index
from ollama_fleet.kube.client import EventType
from ollama_fleet.kube.kinds import Kind
from ollama_fleet.kube.transport import Json, Objects

logger = logging.getLogger(__name__)

Handler = Callable[[Json | None, Json | None], None]
"""(None, new): appeared; (old, new): changed; (old, None): gone. Must return at once."""
Project = Callable[[Json], Json]
"""Makes what is kept out of what came; may change its argument."""

RELIST_AFTER_FAILURES: Final = 5
"""Watches that failed in a row without a single event: the version itself may be what the server refuses
(after a restore from a backup it waits for a version that never comes)."""
MAX_PAUSE: Final = 5.0
"""Seconds between tries: the longest that a cache lags behind an API server that is back."""
_HEALTHY_SECONDS: Final = 5.0


class Lister(Protocol):
    """The part of the client that an informer uses."""

    def pages(
        self, kind: Kind, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[tuple[Objects, str], None]:
        """As :meth:`ollama_fleet.kube.client.KubeClient.pages`."""

    def watch(
        self,
        kind: Kind,
        *,
        resource_version: str,
        namespace: str | None = None,
        label_selector: str | None = None,
    ) -> AsyncGenerator[tuple[EventType, Json], None]:
        """As :meth:`ollama_fleet.kube.client.KubeClient.watch`."""


def without_managed_fields(obj: Json) -> Json:
    """The default projection: managedFields are often half of an object and nobody reads them."""
    obj["metadata"].pop("managedFields", None)
    return obj


class Informer:
    """Read with ``get``, ``list`` and ``by_index``, follow with handlers. Objects are read-only."""

    def __init__(
        self,
        client: Lister,
        kind: Kind,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        project: Project = without_managed_fields,
        indices: Mapping[str, Index] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff | None = None,
    ) -> None:
        """``namespace`` None: all; ``label_selector`` is one of equalities, ``project`` saves memory."""
        self.kind = kind
        self.synced = asyncio.Event()
        """Set for good after the first complete list."""
        self.last_activity = clock()
        """When the server was last heard (a list, an event or a bookmark), by the informer's clock."""
        self.relists = 0
        self.failures = 0
        """Lists and watches that failed since the last one that worked."""
        self._client = client
        self._scope = {"namespace": namespace, "label_selector": label_selector}
        self._labels = dict(term.split("=") for term in (label_selector or "").split(",") if term)
        self._project = project
        self._cache = Cache(indices or {})
        self._handlers: list[Handler] = []
        self._version: str | None = None
        self._listed_at = float("-inf")
        self._clock = clock
        self._sleep = sleep
        self._backoff = backoff or Backoff(first=0.5, limit=MAX_PAUSE)

    def __len__(self) -> int:
        """The number of objects."""
        return len(self._cache)

    def add_handler(self, handler: Handler) -> None:
        """Call ``handler`` on every change from now on; before ``run`` that is every object."""
        self._handlers.append(handler)

    def get(self, namespace: str | None, name: str) -> Json | None:
        """The object as last seen."""
        return self._cache.get((namespace or "", name))

    def by_index(self, index: str, value: str) -> Objects:
        """The objects that the index function gave ``value``."""
        return self._cache.by_index(index, value)

    def list(self, namespace: str | None = None) -> Objects:
        """All objects, or those of one namespace."""
        return self._cache.select(namespace)

    def wrote(self, answer: Json) -> None:
        """Take in the answer to a write of this process, which the watch has yet to tell.

        Without it, a reconcile that comes before the watch's event finds the old object and writes again.
        """
        if self._version is None or not self._version.isdecimal():
            return
        if not self._labels.items() <= answer["metadata"].get("labels", {}).items():
            return
        # What the watch has passed it has told, and what it told may be that the object is gone.
        if int(answer["metadata"]["resourceVersion"]) > int(self._version):
            self._tell(self._cache.put(self._project(answer)))

    async def run(self) -> None:
        """Follow until cancelled; nothing the server does ends it."""
        while True:
            try:
                if self._version is None:
                    await self._relist()
                else:
                    await self._follow(self._version)
            except errors.Silence:
                # Nothing happens there, or the connection is dead: then the next watch fails before it begins.
                self.failures = 0
            except errors.Gone:
                logger.info("history is gone, listing again", extra={"kind": self.kind.kind})
                self._version = None
                if self._clock() - self._listed_at < _HEALTHY_SECONDS:
                    await self._pause()
            except errors.KubeError as error:
                await self._failed(error)
            except (Exception, asyncio.CancelledError) as error:
                if cancelling.is_meant(error):
                    raise
                logger.exception("informer", extra={"kind": self.kind.kind})
                self._version = None
                await self._failed(error)

    async def _relist(self) -> None:
        version = ""
        objects: Objects = []
        async for page, newest in self._client.pages(self.kind, **self._scope):
            objects += [self._project(obj) for obj in page]
            version = newest
        changes = self._cache.replace(objects)
        self._version = version
        self.relists += 1
        self.failures = 0
        self.last_activity = self._listed_at = self._clock()
        self._tell(changes)
        self.synced.set()

    async def _follow(self, version: str) -> None:
        started = self._clock()
        # Closed here and not by the garbage collector: the connection goes back at once.
        events = self._client.watch(self.kind, resource_version=version, **self._scope)
        try:
            async for event, obj in events:
                self.last_activity = self._clock()
                self.failures = 0
                self._take(event, obj)
        finally:
            await events.aclose()
        if self._clock() - started < _HEALTHY_SECONDS:
            # Ended at once, as some proxies do: that must not become a hot loop.
            await self._pause()

    def _take(self, event: EventType, obj: Json) -> None:
        self._version = obj["metadata"]["resourceVersion"]
        if event == "BOOKMARK":
            return
        obj = self._project(obj)
        self._tell(self._cache.drop(obj) if event == "DELETED" else self._cache.put(obj))

    def _tell(self, changes: Changes) -> None:
        for old, new in changes:
            for handler in self._handlers:
                try:
                    handler(old, new)
                except Exception:
                    logger.exception("handler of an informer", extra={"kind": self.kind.kind})

    async def _failed(self, error: BaseException) -> None:
        if self.failures == 0:
            logger.warning(
                "lost touch with the API server",
                extra={"kind": self.kind.kind, "error": f"{type(error).__name__}: {error}"},
            )
        if self.failures + 1 >= RELIST_AFTER_FAILURES:
            self._version = None
        at_least = error.retry_after if isinstance(error, errors.KubeError) else None
        await self._pause(at_least or 0.0)

    async def _pause(self, at_least: float = 0.0) -> None:
        self.failures += 1
        await self._sleep(max(self._backoff.delay(self.failures), at_least))
