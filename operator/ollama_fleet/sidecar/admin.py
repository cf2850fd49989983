"""The admin port: probes, state, drain, metrics. NetworkPolicies keep it to kubelet, operator, gateway and agent."""

import asyncio
import json
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from ollama_fleet.relay.exchange import ClientGone, Exchange
from ollama_fleet.relay.upstream import UpstreamFailed
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.door import Door
from ollama_fleet.sidecar.metrics import SidecarMetrics
from ollama_fleet.sidecar.ollama import Ollama, OllamaError

_TEXT: Final = b"text/plain; charset=utf-8"
_NDJSON: Final = b"application/x-ndjson"
_LIVENESS_SECONDS: Final = 4.0
"""Below the kubelet's own timeout, so that a hung Ollama gives an answer with a reason."""
_QUIET_SECONDS: Final = 0.05
"""Changes within this time become one line."""
_HEARTBEAT_SECONDS: Final = 2.0
LINGER_SECONDS: Final = 5.0
"""How long new requests are still served after the drain began: endpoints of a Service follow within about a second,
and on large clusters within a few."""


class Admin:
    """Handles every exchange of the admin port."""

    def __init__(
        self,
        board: Board,
        ollama: Ollama,
        door: Door,
        metrics: SidecarMetrics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """All parts of the process."""
        self._board = board
        self._ollama = ollama
        self._door = door
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange."""
        match exchange.head.path:
            case "/livez":
                await _text(exchange, HTTPStatus.OK, "ok")
            case "/readyz":
                await self._readyz(exchange)
            case "/ollama-livez":
                await self._ollama_livez(exchange)
            case "/drain":
                await self._drain(exchange)
            case "/fleet/v1/state":
                await self._state(exchange)
            case "/metrics":
                answer = await self._metrics.answer()
                await exchange.answer(answer.status, answer.body, content_type=answer.content_type.encode())
            case _:
                await _text(exchange, HTTPStatus.NOT_FOUND, "no such path")

    async def _readyz(self, exchange: Exchange) -> None:
        if self._board.ready:
            await _text(exchange, HTTPStatus.OK, "ok")
        else:
            await _text(exchange, HTTPStatus.SERVICE_UNAVAILABLE, self._board.why_not())

    async def _ollama_livez(self, exchange: Exchange) -> None:
        """Whether a restart of Ollama would help. Busy is alive: the version is answered beside any load."""
        try:
            async with asyncio.timeout(_LIVENESS_SECONDS):
                await self._ollama.version()
        except (TimeoutError, UpstreamFailed, OllamaError) as error:
            await _text(exchange, HTTPStatus.SERVICE_UNAVAILABLE, f"Ollama does not answer: {error}")
            return
        if self._board.stuck:
            told = f"Ollama is stuck: {self._board.unanswered} loads in a row had no answer"
            await _text(exchange, HTTPStatus.SERVICE_UNAVAILABLE, told)
            return
        await _text(exchange, HTTPStatus.OK, "ok")

    async def _drain(self, exchange: Exchange) -> None:
        """Answer when the last request ended, or the drain time is over.

        The kubelet calls this before it stops Ollama. Services and gateways hear at the same time that the pod goes,
        so requests still arrive for a moment and are served; a pod that was not in service need not wait for them. The
        kubelet also calls it when it restarts a hung or stuck Ollama: then there is nothing to wait for.
        """
        in_service, stuck = self._board.ready, self._board.stuck
        self._board.draining = True
        self._board.touch()
        started = self._clock()
        limit = started + (self._board.config.drain_seconds if self._board.config else 0)
        linger = min(limit, started + LINGER_SECONDS) if in_service else started
        alive = not stuck and await self._alive()
        while alive and self._clock() < limit:
            if self._clock() >= linger:
                self._board.closed = True
                if not self._door.open:
                    break
            await asyncio.sleep(_QUIET_SECONDS)
            alive = self._board.ollama_version is not None
        await _text(exchange, HTTPStatus.OK, f"{self._door.open} requests left")

    async def _alive(self) -> bool:
        try:
            async with asyncio.timeout(_LIVENESS_SECONDS):
                await self._ollama.version()
        except (TimeoutError, UpstreamFailed, OllamaError):
            return False
        return True

    async def _state(self, exchange: Exchange) -> None:
        if "watch=1" not in exchange.head.query.split("&"):
            await exchange.answer(HTTPStatus.OK, self._line())
            return
        await exchange.start(HTTPStatus.OK, ((b"content-type", _NDJSON),), length=None)
        while not exchange.gone.is_set():
            sent = self._board.sequence
            try:
                await exchange.write(self._line())
            except ClientGone:
                return
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    # The board may have changed while a slow reader took the line.
                    while self._board.sequence == sent:
                        await self._board.change()
            except TimeoutError:
                continue
            await asyncio.sleep(_QUIET_SECONDS)

    def _line(self) -> bytes:
        return json.dumps(self._board.snapshot().to_wire()).encode() + b"\n"


async def _text(exchange: Exchange, status: int, text: str) -> None:
    await exchange.answer(status, f"{text}\n".encode(), content_type=_TEXT)
