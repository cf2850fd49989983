"""One blob from a registry into the store: parallel ranges, resumed after kills, verified before it gets its name.

Parts are taken in order, so the hash follows right behind the download: verifying a large blob costs next to nothing at
the end. What may pass (resets, stalls, 5xx, 429) is retried here without end; the rest is the caller's.
"""

import asyncio
import functools
import hashlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from ollama_fleet.api.references import ModelReference
from ollama_fleet.store.backoff import Backoff, Clock, SystemClock
from ollama_fleet.store.budget import Budget
from ollama_fleet.store.errors import DigestMismatch, DiskFull, RateLimited, StoreError, Unreachable
from ollama_fleet.store.journal import Parts
from ollama_fleet.store.layout import BlobDirectory
from ollama_fleet.store.manifest import Descriptor
from ollama_fleet.store.partial import PartialFile, try_lock
from ollama_fleet.store.registry import BlobStream, RegistryClient
from ollama_fleet.store.threads import leaf, settled

_MIB: Final = 1024 * 1024
_WRITE_BYTES: Final = _MIB
"""Bytes gathered before one write."""
_HASH_BYTES: Final = 16 * _MIB
CHECKPOINT_BYTES: Final = 64 * _MIB
CHECKPOINT_SECONDS: Final = 2.0
"""A kill costs what came since the last checkpoint: at most this many bytes or seconds, whichever is less."""
_LOCK_POLL_SECONDS: Final = 1.0
_MISMATCHES: Final = 3
"""Wrong bytes so often in a row are no accident of the way."""


class Observer(Protocol):
    """Who is told how a blob comes along."""

    def received(self, digest: str, completed: int) -> None:
        """So many bytes of the blob are in the store."""
        ...

    def retrying(self, error: StoreError) -> None:
        """An attempt failed and will be repeated."""
        ...

    def verifying(self) -> None:
        """A file that was there is being hashed."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a blob comes from."""

    client: RegistryClient
    reference: ModelReference
    rank: int = 0
    """Lower ranks get connections first."""


@dataclass(frozen=True, slots=True)
class Downloader:
    """Downloads into one blob directory within one budget of connections."""

    directory: BlobDirectory
    budget: Budget
    connections: int = 8
    """Most connections for one blob."""
    clock: Clock = field(default_factory=SystemClock)
    backoff: Backoff = field(default_factory=Backoff)
    _silent_until: dict[str, float] = field(default_factory=dict)
    """By registry: 429 silences all its downloads, not only the one that got it."""
    _active: dict[str, Parts] = field(default_factory=dict)
    """Downloads under way: what they still miss is room that no other may count on."""

    async def fetch(self, source: Source, blob: Descriptor, observer: Observer) -> None:
        """Return when the blob is in the store and verified.

        Raises errors that do not pass, `DigestMismatch` after several tries, `DiskFull` and `OSError`.
        """
        mismatches = 0
        while not self.directory.has(blob):
            try:
                await self._fetch_once(source, blob, observer)
            except DigestMismatch as error:
                mismatches += 1
                if mismatches == _MISMATCHES:
                    raise
                observer.retrying(error)
                await self.clock.sleep(self.backoff.delay(mismatches))
        observer.received(blob.digest, blob.size)

    async def _fetch_once(self, source: Source, blob: Descriptor, observer: Observer) -> None:
        with try_lock(self.directory, blob) as partial:
            if partial is None:
                await self.clock.sleep(_LOCK_POLL_SECONDS)
            elif await self._is_there(blob, observer):
                partial.discard()
            else:
                promised = sum(parts.size - parts.completed for parts in self._active.values())
                self._active[blob.digest] = parts = partial.open_parts(promised=promised)
                try:
                    await _Download(self, source, blob, observer=observer, partial=partial, parts=parts).run()
                finally:
                    del self._active[blob.digest]

    async def _is_there(self, blob: Descriptor, observer: Observer) -> bool:
        """Under the lock: whether another puller was faster, or a file of unknown origin turns out right."""
        if self.directory.has(blob):
            return True
        if not self.directory.blob_path(blob.digest).exists():
            return False
        observer.verifying()
        if await verify(self.directory, blob):
            return True
        self.directory.remove(blob.digest)
        return False

    async def persist(self, host: str, attempt: Callable[[], Awaitable[None]], *, progress: Callable[[], int]) -> None:
        """Repeat an attempt until it succeeds; delays grow while it makes no progress."""
        failures = 0
        while True:
            await self._silence(host)
            before = progress()
            try:
                return await attempt()
            except Unreachable as error:
                failures = 1 if progress() > before else failures + 1
                delay = self.backoff.delay(failures)
                if isinstance(error, RateLimited):
                    # Zero, or a date that is past by this node's clock, is no leave to ask at once.
                    self._silent_until[host] = self.clock.monotonic() + max(error.retry_after, delay)
                else:
                    await self.clock.sleep(delay)

    async def _silence(self, host: str) -> None:
        while (wait := self._silent_until.get(host, 0.0) - self.clock.monotonic()) > 0:
            await self.clock.sleep(wait)


async def verify(directory: BlobDirectory, blob: Descriptor) -> bool:
    """`BlobDirectory.verify` in a thread that stops when we are cancelled."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(directory.verify, blob, stop=stop)
    except asyncio.CancelledError:
        stop.set()
        raise


class _Download:
    """One blob's way in, while we hold the lock of its partial file."""

    def __init__(
        self,
        owner: Downloader,
        source: Source,
        blob: Descriptor,
        *,
        observer: Observer,
        partial: PartialFile,
        parts: Parts,
    ) -> None:
        self._owner = owner
        self._source = source
        self._blob = blob
        self._observer = observer
        self._partial = partial
        self._parts = parts
        self._ranged = True
        self._grown = asyncio.Event()
        self._saving = False
        self._saved_bytes = self._parts.completed
        self._saved_at = owner.clock.monotonic()

    async def run(self) -> None:
        """Download, verify, finish. Raises `DigestMismatch` after removing wrong bytes."""
        self._observer.received(self._blob.digest, self._parts.completed)
        try:
            sha256 = await self._transfer()
        except BaseException:
            with suppress(OSError, DiskFull):  # the first error is the one to tell
                self._partial.checkpoint(self._parts)
            raise
        found = f"sha256:{sha256.hexdigest()}"
        if found != self._blob.digest:
            self._partial.discard()
            self._observer.received(self._blob.digest, 0)
            raise DigestMismatch(f"blob {self._blob.digest} of {self._source.reference}: got {found}")
        await settled(self._partial.finish)

    async def _transfer(self) -> "hashlib._Hash":
        try:
            async with asyncio.TaskGroup() as group:
                hashing = group.create_task(self._follow())
                group.create_task(self._download())
        except BaseExceptionGroup as errors:
            raise leaf(errors, StoreError, OSError) from None
        return hashing.result()

    async def _follow(self) -> "hashlib._Hash":
        """Hash the file behind the download, as far as it has no gap."""
        sha256, hashed, index = hashlib.sha256(), 0, 0
        while hashed < self._blob.size:
            index, frontier = self._parts.frontier(index)
            if frontier - hashed >= _HASH_BYTES or frontier == self._blob.size:
                end = min(frontier, hashed + _HASH_BYTES)
                await settled(self._partial.update, sha256, hashed, end)
                hashed = end
            else:
                self._grown.clear()
                await self._grown.wait()
        return sha256

    async def _download(self) -> None:
        queue = deque(self._parts.incomplete())
        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._owner.connections, len(queue))):
                group.create_task(self._work(queue))
        if self._parts.completed < self._blob.size:  # the registry ignores ranges
            await self._persist(self._stream_once, lambda: self._parts.completed)

    async def _work(self, queue: deque[int]) -> None:
        while queue and self._ranged:
            index = queue.popleft()
            await self._persist(
                functools.partial(self._range_once, index), functools.partial(self._parts.done.__getitem__, index)
            )

    async def _persist(self, attempt: Callable[[], Awaitable[None]], progress: Callable[[], int]) -> None:
        async def observed() -> None:
            try:
                await attempt()
            except Unreachable as error:
                self._observer.retrying(error)
                raise

        await self._owner.persist(self._source.reference.host, observed, progress=progress)

    async def _range_once(self, index: int) -> None:
        start, end = self._parts.missing(index)
        if not self._ranged or start == end:
            return
        async with self._owner.budget.slot(self._source.rank), self._open(start, end) as stream:
            if stream.start == start:
                await self._receive(stream.chunks, start, end)
            else:
                self._ranged = False

    async def _stream_once(self) -> None:
        """From the first byte on, dropping what is there: the way of registries that know no ranges."""
        _, start = self._parts.frontier(0)
        async with self._owner.budget.slot(self._source.rank), self._open(0, self._blob.size) as stream:
            await self._receive(_skip(stream.chunks, start), start, self._blob.size)

    def _open(self, start: int, end: int) -> AbstractAsyncContextManager[BlobStream]:
        return self._source.client.open_blob(self._source.reference, self._blob, start=start, end=end)

    async def _receive(self, chunks: AsyncIterator[bytes], at: int, end: int) -> None:
        """Write the stream at an offset. Never beyond ``end``, whatever the registry sends."""
        buffer = bytearray()
        try:
            async for chunk in chunks:
                buffer += chunk[: end - at - len(buffer)]
                complete = at + len(buffer) == end
                if complete or len(buffer) >= _WRITE_BYTES:
                    content, offset, at, buffer = buffer, at, at + len(buffer), bytearray()
                    await settled(self._write, content, offset)
                    self._grown.set()
                    await self._checkpoint_if_due()
                if complete:
                    return
        finally:
            if buffer:
                self._write(buffer, at)
                self._grown.set()
        raise Unreachable(f"blob {self._blob.digest} of {self._source.reference}: ended {end - at} bytes early")

    def _write(self, content: bytearray, offset: int) -> None:
        self._partial.write(content, offset)
        self._parts.add(offset, offset + len(content))
        self._observer.received(self._blob.digest, self._parts.completed)

    async def _checkpoint_if_due(self) -> None:
        now, completed = self._owner.clock.monotonic(), self._parts.completed
        due = completed - self._saved_bytes >= CHECKPOINT_BYTES or now - self._saved_at >= CHECKPOINT_SECONDS
        if self._saving or not due:
            return
        self._saving, self._saved_bytes, self._saved_at = True, completed, now
        try:
            await settled(self._partial.checkpoint, replace(self._parts, done=list(self._parts.done)))
        finally:
            self._saving = False


async def _skip(chunks: AsyncIterator[bytes], count: int) -> AsyncIterator[bytes]:
    async for chunk in chunks:
        if count < len(chunk):
            yield chunk[count:]
        count = max(0, count - len(chunk))
