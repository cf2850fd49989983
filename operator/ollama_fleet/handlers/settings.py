"""kopf's settings: a shell that watches and writes nothing."""

import random
from collections.abc import Iterator
from typing import Any, Final

import kopf

from ollama_fleet.api import names

WATCH_SECONDS: Final = 300
"""An int: the API server parses no fraction."""


class EndlessBackoff:
    """Delays of requests, without end: a fixed list would make the process exit after a minute of 503."""

    def __iter__(self) -> Iterator[float]:
        """Seconds: 1, 2, 4, 8, then 15 for ever, each jittered down to half."""
        delay = 1.0
        while True:
            yield delay * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            delay = min(15.0, delay * 2)


class NoDiffBase(kopf.DiffBaseStorage):
    """Remembers nothing: without it, kopf deep-copies each object for each event."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of the object is compared."""
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Store nothing: no annotation for GitOps tools to see."""


class NoProgress(kopf.ProgressStorage):
    """Remembers nothing: event handlers have no progress."""

    def fetch(self, **_: Any) -> None:
        """Nothing was stored."""

    def store(self, **_: Any) -> None:
        """Store nothing."""

    def purge(self, **_: Any) -> None:
        """Purge nothing."""

    def touch(self, **_: Any) -> None:
        """Touch nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing of it is in the essence."""
        return essence


def configure(settings: kopf.OperatorSettings) -> None:
    """Set what differs from kopf's defaults."""
    settings.peering.standalone = True  # the Lease decides who leads
    settings.posting.enabled = False  # events come from the recorder, aggregated
    settings.scanning.disabled = True  # no watches of CRDs and namespaces, no rights to them

    settings.watching.server_timeout = WATCH_SECONDS
    settings.watching.client_timeout = WATCH_SECONDS + 60
    settings.watching.connect_timeout = 10
    settings.watching.chunk_size = 500

    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.enforce_retry_after = True
    settings.networking.error_backoffs = EndlessBackoff()

    settings.queueing.error_delays = (1, 2, 4, 8, 16, 32, 60)
    settings.persistence.finalizer = f"{names.GROUP}/finalizer"  # never set: there are no such handlers
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.process.ultimate_exiting_timeout = None  # the process is ended by its own main task
