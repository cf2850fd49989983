"""The data port: what clients reach. Route, body, model, slot, and then the answer as it comes."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Final

from ollama_fleet.api.group import GroupModel
from ollama_fleet.relay.exchange import ClientGone, Exchange
from ollama_fleet.relay.messages import forwardable
from ollama_fleet.relay.upstream import Answer, Upstream, UpstreamFailed
from ollama_fleet.sidecar.board import Board
from ollama_fleet.sidecar.bodies import prepare
from ollama_fleet.sidecar.budget import Budget, Share
from ollama_fleet.sidecar.metrics import SidecarMetrics
from ollama_fleet.sidecar.refusals import Refused, render
from ollama_fleet.sidecar.routes import Kind, Route, dialect, find

logger = logging.getLogger(__name__)

MAX_BODY_BYTES: Final = 24 * 2**20
BODIES_BYTES: Final = 48 * 2**20
"""Of all bodies together. The container may use 512 MiB: 60 for the process, 54 for these (a buffer that grows has an
eighth to spare), and one body at a time is parsed and written anew, which takes at most 360: 288 for 24 MiB of text
with characters of four bytes, and 72 for as many values as ``bodies`` lets through."""
SETTLE_SECONDS: Final = 60.0
"""How long Ollama may take to notice that a client went away, before its slot is reported as stuck: it is then free
when Ollama ends the answer or its process."""

# Ollama answers 403 to foreign hosts and origins; the door decides who comes in, so they are not passed on.
_NOT_FORWARDED: Final = frozenset(
    {b"host", b"origin", b"referer", b"content-length", b"accept-encoding", b"authorization", b"cookie"}
)


class Door:
    """Handles every exchange of the data port."""

    def __init__(self, board: Board, upstream: Upstream, metrics: SidecarMetrics) -> None:
        """``upstream`` is Ollama."""
        self._board = board
        self._upstream = upstream
        self._metrics = metrics
        self._budget = Budget(BODIES_BYTES)
        self.open = 0
        """Exchanges under way."""

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one exchange."""
        self.open += 1
        try:
            with self._budget.share() as share:
                await self._admit(exchange, share)
        except Refused as refused:
            await self._refuse(exchange, refused)
        except UpstreamFailed as error:
            logger.warning("Ollama failed a request", extra={"path": exchange.head.path, "error": str(error)})
            if exchange.started:
                # An orderly end would make half an answer look whole.
                exchange.abort()
            else:
                await self._refuse(exchange, Refused(HTTPStatus.BAD_GATEWAY, "Ollama does not answer; try again"))
        finally:
            self.open -= 1
            left = exchange.gone.is_set() and not exchange.finished
            self._metrics.request(exchange.head.path, 0 if left else exchange.status)

    async def _admit(self, exchange: Exchange, share: Share) -> None:
        head = exchange.head
        route = find(head.method, head.path)
        if route is None:
            raise Refused(
                HTTPStatus.NOT_FOUND if find("POST", head.path) is None else HTTPStatus.METHOD_NOT_ALLOWED,
                f"{head.method} {head.path[:128]} is not served here: models are managed by ModelSets",
            )
        if route.kind is Kind.PLAIN:
            await self._forward(exchange, share)
            return
        if head.get(b"content-encoding") not in {None, b"identity"}:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not accepted: send plain JSON")
        if self._board.closed:
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "server is draining; try again", retry_after=1, busy=True)
        model = await self._take(exchange, route, share)
        if route.kind is Kind.SHOW:
            await self._forward(exchange, share)
            return
        await self._run(exchange, model, share)

    async def _take(self, exchange: Exchange, route: Route, share: Share) -> GroupModel:
        """Read a body and bring it in line; returns the model that it names. Only ``share`` keeps the body."""
        raw = await exchange.read_body(MAX_BODY_BYTES, arrived=share.grow)
        prepared = prepare(raw, route=route, served=self._board.served)
        share.hold(prepared.body)
        return prepared.model

    async def _run(self, exchange: Exchange, model: GroupModel, share: Share) -> None:
        slots = self._board.slots[model.name]
        await _unless_gone(exchange, slots.acquire(priority=model.priority))
        slots.running.add(exchange)
        self._board.touch()
        try:
            await self._forward(exchange, share)
        except ClientGone:
            self._board.update(model.name, abandoned=True)
            raise
        finally:
            slots.running.discard(exchange)
            slots.release()
            self._board.touch()

    async def _forward(self, exchange: Exchange, share: Share) -> None:
        head = exchange.head
        target = f"{head.path}?{head.query}" if head.query else head.path
        headers = tuple(forwardable(head.headers, drop=_NOT_FORWARDED))
        async with self._upstream.request(head.method, target, headers=headers, body=share.content or None) as answer:
            try:
                await _unless_gone(exchange, self._stream(exchange, answer, share))
            except ClientGone:
                if not await answer.settle(SETTLE_SECONDS):
                    # The slot stays taken: given away, it would run beside a generation that nobody reads.
                    logger.warning("Ollama goes on after its client left", extra={"path": head.path})
                    await answer.settle(None)
                raise

    async def _stream(self, exchange: Exchange, answer: Answer, share: Share) -> None:
        await answer.sent()
        share.hold(b"")
        await answer.read_head()
        headers = tuple(forwardable(answer.headers, drop=frozenset({b"content-length", b"date", b"server"})))
        await exchange.start(answer.status, headers, length=answer.length)
        if exchange.head.method != "HEAD":
            async for chunk in answer.chunks():
                await exchange.write(chunk)
        await exchange.end()

    async def _refuse(self, exchange: Exchange, refused: Refused) -> None:
        rendered = render(refused, dialect(exchange.head.path))
        with contextlib.suppress(ClientGone):
            await exchange.answer(rendered.status, rendered.body, headers=rendered.headers)


async def _unless_gone(exchange: Exchange, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until the client goes, also while nothing comes from Ollama. Raises ClientGone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(exchange.gone.wait())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled():
                raise ClientGone
        task.result()
    finally:
        gone.cancel()
        task.cancel()
