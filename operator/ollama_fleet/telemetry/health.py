"""Probes: ``/livez`` says whether a restart would help, ``/readyz`` whether the role does its work."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

from ollama_fleet.telemetry.http import Answer, Handler, HttpServer

Check = Callable[[], str | None]
"""What is wrong, or None. Must return at once."""

BEAT_SECONDS: Final = 1.0


class Heartbeat:
    """Notices a loop that no longer turns; ``beat`` may be called from any thread."""

    def __init__(self, what: str, *, limit: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit`` is the age in seconds at which ``what`` counts as stuck."""
        self._what = what
        self._limit = limit
        self._clock = clock
        self._last: float | None = clock()

    def beat(self) -> None:
        """It turns."""
        self._last = self._clock()

    def rest(self) -> None:
        """There is nothing that would turn, until the next beat."""
        self._last = None

    def check(self) -> str | None:
        """For a :class:`Health`."""
        if self._last is None:
            return None
        age = self._clock() - self._last
        return None if age <= self._limit else f"{self._what} has not moved for {age:.0f} s"

    async def run(self) -> None:
        """Beat in the loop that runs this, until cancelled."""
        while True:
            self.beat()
            await asyncio.sleep(BEAT_SECONDS)


class Health:
    """Two sets of named checks."""

    def __init__(self, *, live: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        """A readiness check may say who this is in its name only: the body lists names and reasons."""
        self._live = dict(live)
        self._ready = dict(ready)
        self.role = ""
        """Stands in the answer of ``/readyz``, for example ``leader`` or ``standby``: both are ready."""

    async def livez(self) -> Answer:
        """200, or 503 with what is stuck."""
        return _answer(self._live, "")

    async def readyz(self) -> Answer:
        """200, or 503 with what is missing."""
        return _answer(self._ready, self.role)

    def routes(self) -> dict[str, Handler]:
        """For an :class:`~ollama_fleet.telemetry.http.HttpServer`."""
        return {"/livez": self.livez, "/readyz": self.readyz}


def _answer(checks: Mapping[str, Check], role: str) -> Answer:
    found = {name: check() for name, check in checks.items()}
    wrong = any(problem is not None for problem in found.values())
    lines = [f"role: {role}"] if role else []
    lines += [f"{name}: {problem or 'ok'}" for name, problem in found.items()]
    lines.append("not ok" if wrong else "ok")
    return Answer(503 if wrong else 200, ("\n".join(lines) + "\n").encode())


async def serve(health: Health, metrics: Handler, *, host: str, port: int) -> tuple[HttpServer, int]:
    """Serve ``/livez``, ``/readyz`` and ``/metrics``; returns the server and its port."""
    server = HttpServer({**health.routes(), "/metrics": metrics})
    return server, await server.start(host=host, port=port)
