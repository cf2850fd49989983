"""The sidecar's metrics. Names: ``ollama_fleet_<what>_<unit>``, base units, counters end in ``_total``."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from ollama_fleet.api.state import ModelPhase
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.routes import find
from ollama_fleet.telemetry.http import Answer


class SidecarMetrics:
    """One registry per process."""

    def __init__(self, board: Board) -> None:
        """``board`` is read at each scrape."""
        self._board = board
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ollama_fleet_requests",
            "Requests on the data port; the route is 'other' for what is not served, the code 0 for clients that left.",
            ("route", "code"),
            registry=self._registry,
        )
        labels = ("model",)
        self._slots = Gauge(
            "ollama_fleet_model_slots",
            "Requests that may run at once; names over the same weights share them, and those that run and wait.",
            labels,
            registry=self._registry,
        )
        self._in_flight = Gauge(
            "ollama_fleet_model_requests_in_flight", "Requests that run.", labels, registry=self._registry
        )
        self._waiting = Gauge(
            "ollama_fleet_model_requests_waiting", "Requests that wait for a slot.", labels, registry=self._registry
        )
        self._warm = Gauge(
            "ollama_fleet_model_warm", "1 while in memory and proved by a token.", labels, registry=self._registry
        )
        self._memory = Gauge(
            "ollama_fleet_model_memory_bytes", "Memory that Ollama claims for it.", labels, registry=self._registry
        )
        self._load = Gauge(
            "ollama_fleet_model_load_seconds",
            "Of the last load, up to its first token.",
            labels,
            registry=self._registry,
        )

    def request(self, path: str, status: int) -> None:
        """Count a request; paths that are not served do not become labels."""
        served = find("POST", path) or find("GET", path)
        route = "/v1/models/{model}" if path.startswith("/v1/models/") else path
        self._requests.labels(route if served else "other", str(status)).inc()

    async def answer(self) -> Answer:
        """``/metrics`` in the text format."""
        gauges = (self._slots, self._in_flight, self._waiting, self._warm, self._memory, self._load)
        for gauge in gauges:
            gauge.clear()
        for model in self._board.snapshot().models:
            values = (
                model.slots,
                model.in_flight,
                model.waiting,
                float(model.phase is ModelPhase.WARM),
                model.size,
                model.load_seconds or 0.0,
            )
            for gauge, value in zip(gauges, values, strict=True):
                gauge.labels(model.name).set(value)
        return Answer(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)
