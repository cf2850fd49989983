"""The keyed work queue: client-go's semantics, plus fairness and two priorities.

A key waits at most once, is never in two hands, and comes back after ``done`` if it was added meanwhile.
Keys of one kind and namespace form a lane; lanes take turns, so that one busy namespace cannot hold up
the others.
"""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from ollama_fleet.kube.backoff import Backoff, TokenBucket
from ollama_fleet.kube.kinds import Kind


@dataclass(frozen=True, slots=True)
class Key:
    """What a reconcile works on."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        """As it stands in logs."""
        return f"{self.kind.kind}/{self.namespace}/{self.name}"


class Priority(IntEnum):
    """Lower goes first. LOW is for resyncs, which nobody waits for."""

    NORMAL = 0
    LOW = 1


@dataclass(slots=True)
class _Waiting:
    priority: Priority
    since: float


class WorkQueue:
    """Not thread-safe: every method belongs to one event loop."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        backoff: Backoff | None = None,
        retries: TokenBucket | None = None,
    ) -> None:
        """``backoff`` holds per key (default 1 s to 5 min); ``retries`` for all (default 10/s, burst 100)."""
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._retries = retries or TokenBucket(rate=10, burst=100, clock=clock)
        self._waiting: dict[Key, _Waiting] = {}
        self._turns = {priority: _Turns() for priority in Priority}
        self._active: dict[Key, float] = {}
        self._dirty: dict[Key, _Waiting] = {}
        self._delayed: dict[Key, tuple[float, Priority]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = 0
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()

    def add(self, key: Key, *, priority: Priority = Priority.NORMAL) -> None:
        """Wait for a worker now; a higher priority wins over the one it waits with."""
        self._add(key, priority=priority, since=self._clock())
        self._wake.set()

    def add_after(self, key: Key, delay: float, *, priority: Priority = Priority.NORMAL) -> None:
        """Add in ``delay`` seconds; of several delays for one key the earliest wins."""
        if delay <= 0:
            self.add(key, priority=priority)
            return
        due = self._clock() + delay
        planned = self._delayed.get(key)
        if planned is not None and planned[0] <= due:
            self._delayed[key] = (planned[0], min(priority, planned[1]))
            return
        if planned is not None:
            priority = min(priority, planned[1])
        self._delayed[key] = (due, priority)
        self._order += 1
        heapq.heappush(self._heap, (due, self._order, key))
        self._shrink_heap()
        self._wake.set()

    def retry(self, key: Key, *, at_least: float = 0.0) -> float:
        """Add after the key's back-off, the limit of all retries and ``at_least``, whichever is longest.

        Returns the delay in seconds.
        """
        failures = self._failures.get(key, 0) + 1
        self._failures[key] = failures
        delay = max(self._backoff.delay(failures), self._retries.reserve(), at_least)
        self.add_after(key, delay)
        return delay

    def forget(self, key: Key) -> None:
        """The key worked (or is no more): its next retry starts at the first delay again."""
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """The next key; the caller must call ``done`` with it."""
        while True:
            key = self.pop()
            if key is not None:
                return key
            self._wake.clear()
            due = self.next_due()
            timeout = None if due is None else max(0.0, due - self._clock())
            try:
                # Not wait_for: up to Python 3.11 it may swallow a cancellation, and the worker would never end.
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def pop(self) -> Key | None:
        """The next key if one is ready."""
        now = self._clock()
        self._promote(now)
        for turns in self._turns.values():
            key = turns.pop()
            if key is not None:
                del self._waiting[key]
                self._active[key] = now
                return key
        return None

    def done(self, key: Key) -> None:
        """The worker is through with the key."""
        del self._active[key]
        again = self._dirty.pop(key, None)
        if again is not None:
            self._add(key, priority=again.priority, since=again.since)
            self._wake.set()

    def next_due(self) -> float | None:
        """When the next delayed key becomes ready, by the queue's clock."""
        while self._heap and self._is_stale(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def depth(self) -> int:
        """Keys that are ready and wait for a worker."""
        return len(self._waiting) + len(self._dirty)

    def delayed(self) -> int:
        """Keys that come later."""
        return len(self._delayed)

    def oldest(self) -> float:
        """Seconds that the oldest ready key has waited."""
        since = [entry.since for entries in (self._waiting, self._dirty) for entry in entries.values()]
        return self._clock() - min(since) if since else 0.0

    def longest_active(self) -> tuple[Key, float] | None:
        """The key that a worker has held longest, and for how many seconds."""
        if not self._active:
            return None
        key = min(self._active, key=self._active.__getitem__)
        return key, self._clock() - self._active[key]

    def _add(self, key: Key, *, priority: Priority, since: float) -> None:
        entries = self._dirty if key in self._active else self._waiting
        known = entries.get(key)
        if known is not None and known.priority <= priority:
            return
        if known is not None:
            since = known.since
            if entries is self._waiting:
                self._turns[known.priority].remove(key)
        entries[key] = _Waiting(priority, since)
        if entries is self._waiting:
            self._turns[priority].push(key)

    def _promote(self, now: float) -> None:
        while self._heap and (self._heap[0][0] <= now or self._is_stale(self._heap[0])):
            entry = heapq.heappop(self._heap)
            if self._is_stale(entry):
                continue
            _, priority = self._delayed.pop(entry[2])
            self._add(entry[2], priority=priority, since=entry[0])

    def _is_stale(self, entry: tuple[float, int, Key]) -> bool:
        planned = self._delayed.get(entry[2])
        return planned is None or planned[0] != entry[0]

    def _shrink_heap(self) -> None:
        """Superseded entries stay in the heap until due; keep them from outnumbering the live ones."""
        if len(self._heap) > 2 * len(self._delayed) + 64:
            self._heap = [entry for entry in self._heap if not self._is_stale(entry)]
            heapq.heapify(self._heap)


class _Turns:
    """Lanes that take turns; within a lane first come, first served."""

    def __init__(self) -> None:
        self._lanes: dict[tuple[str, str], dict[Key, None]] = {}
        self._turn: deque[tuple[str, str]] = deque()

    def push(self, key: Key) -> None:
        lane = (key.kind.kind, key.namespace)
        if lane not in self._lanes:
            self._lanes[lane] = {}
            self._turn.append(lane)
        self._lanes[lane][key] = None

    def pop(self) -> Key | None:
        if not self._turn:
            return None
        lane = self._turn.popleft()
        keys = self._lanes[lane]
        key = next(iter(keys))
        del keys[key]
        if keys:
            self._turn.append(lane)
        else:
            del self._lanes[lane]
        return key

    def remove(self, key: Key) -> None:
        lane = (key.kind.kind, key.namespace)
        keys = self._lanes[lane]
        del keys[key]
        if not keys:
            del self._lanes[lane]
            self._turn.remove(lane)
