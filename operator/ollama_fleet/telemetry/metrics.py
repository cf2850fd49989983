"""The operator's metrics. Names: ``ollama_fleet_<what>_<unit>``, base units, counters end in ``_total``."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from ollama_fleet import __version__
from ollama_fleet.telemetry.http import Answer

PREFIX: Final = "ollama_fleet"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Queue(Protocol):
    """What is shown of the work queue."""

    def depth(self) -> int:
        """Ready keys."""

    def delayed(self) -> int:
        """Keys that come later."""

    def oldest(self) -> float:
        """Seconds that the oldest ready key has waited."""


class Cache(Protocol):
    """What is shown of an informer."""

    last_activity: float
    relists: int

    def __len__(self) -> int:
        """Objects."""


class OperatorMetrics:
    """One registry per process; the methods fit the hooks of client, workers and leader election."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        Info(f"{PREFIX}_build", "Version of this operator.", registry=self.registry).info({"version": __version__})
        self._reconciles = Counter(
            f"{PREFIX}_reconciles",
            "Reconciles by outcome: ok, conflict, retry (API server), error.",
            ("kind", "outcome"),
            registry=self.registry,
        )
        self._reconcile_seconds = Histogram(
            f"{PREFIX}_reconcile_seconds",
            "Duration of a reconcile.",
            ("kind",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            f"{PREFIX}_api_requests",
            "Requests to the API server; the code is the HTTP status or the name of the failure.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            f"{PREFIX}_api_request_seconds",
            "Duration of a request to the API server, watches left out.",
            ("verb",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._leader = Gauge(f"{PREFIX}_leader", "1 while this process holds the Lease.", registry=self.registry)

    def observe_request(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """The client's ``on_request``."""
        self._requests.labels(verb, resource, code).inc()
        if verb != "watch":
            self._request_seconds.labels(verb).observe(seconds)

    def observe_reconcile(self, kind: str, outcome: str, seconds: float) -> None:
        """The workers' ``observe``."""
        self._reconciles.labels(kind, outcome).inc()
        self._reconcile_seconds.labels(kind).observe(seconds)

    def set_leader(self, *, leading: bool) -> None:
        """Whether this process holds the Lease."""
        self._leader.set(1 if leading else 0)

    def watch_queue(self, queue: Queue) -> None:
        """Show a queue's figures as of each scrape."""
        self._gauge("queue_depth", "Keys that wait for a worker.", queue.depth)
        self._gauge("queue_delayed", "Keys that come later: retries and planned looks.", queue.delayed)
        self._gauge("queue_oldest_seconds", "Wait of the oldest key that is ready.", queue.oldest)

    def watch_caches(self, caches: Mapping[str, Cache], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Show the informers' figures by kind; ``clock`` is theirs."""
        objects = self._labelled("cache_objects", "Objects in the cache.")
        silence = self._labelled("watch_silence_seconds", "Since the watch was last heard.")
        relists = self._labelled("cache_lists", "Complete lists since the start; 1 is the first.")
        for kind, cache in caches.items():
            objects.labels(kind).set_function(partial(len, cache))
            silence.labels(kind).set_function(partial(_silence, cache, clock))
            relists.labels(kind).set_function(partial(_relists, cache))

    def watch_dropped_events(self, dropped: Callable[[], int]) -> None:
        """Show how many Kubernetes events were never written."""
        self._gauge("events_dropped", "Kubernetes events that were never written.", dropped)

    async def answer(self) -> Answer:
        """``/metrics`` in the text format."""
        return Answer(200, generate_latest(self.registry), CONTENT_TYPE_LATEST)

    def _gauge(self, name: str, text: str, function: Callable[[], float]) -> None:
        Gauge(f"{PREFIX}_{name}", text, registry=self.registry).set_function(function)

    def _labelled(self, name: str, text: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", text, ("kind",), registry=self.registry)


def _silence(cache: Cache, clock: Callable[[], float]) -> float:
    return clock() - cache.last_activity


def _relists(cache: Cache) -> int:
    return cache.relists
