"""Generating tokens at a given speed, and the ways in which that goes wrong."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from testbed.fakes.ollama.behaviour import Behaviour
from testbed.fakes.ollama.scheduler import Runner
from testbed.fakes.ollama.wire import Ending, Native, OpenAI

_WORDS: Final = ("the", "fleet", "answers", "with", "tokens")
_FAILED: Final = "an error was encountered while running the model: fake"


class _EndedEarly(Exception):
    """The runner stopped without an ending."""


class _Cut(Exception):
    """The connection has to break."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One request for tokens."""

    behaviour: Behaviour
    runner: Runner
    prompt: str
    limit: int
    """At most so many tokens; negative for no limit."""
    began: float
    """Monotonic time of the request's arrival."""

    async def answer(self, request: web.Request, shape: Native | OpenAI, *, stream: bool) -> web.StreamResponse:
        """Generate once the runner has a free slot."""
        loaded = time.monotonic()
        async with self.runner.slots:
            if stream:
                return await self._streamed(request, shape, loaded=loaded)
            return await self._whole(request, shape, loaded=loaded)

    async def _whole(self, request: web.Request, shape: Native | OpenAI, *, loaded: float) -> web.StreamResponse:
        try:
            words = [word async for word in self._words()]
        except _EndedEarly as end:
            return shape.error(500, str(end)) if str(end) else shape.empty()
        except _Cut:
            return _break(request, web.Response())
        return shape.whole("".join(words), self._ending(len(words), loaded=loaded))

    async def _streamed(self, request: web.Request, shape: Native | OpenAI, *, loaded: float) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": shape.content_type})
        response.enable_chunked_encoding()
        count = 0
        try:
            async for word in self._words():
                # The real server sends its headers with the first token, not before.
                await _write(request, response, shape.piece(word))
                count += 1
            await _write(request, response, shape.last(self._ending(count, loaded=loaded)))
        except _EndedEarly as end:
            await _write(request, response, shape.failed(str(end)) if str(end) else b"")
        except _Cut:
            return _break(request, response)
        await response.write_eof()
        return response

    async def _words(self) -> AsyncIterator[str]:
        behaviour = self.behaviour
        await asyncio.sleep(behaviour.prompt_seconds)
        for index in range(self._count()):
            if index == behaviour.hang_after_tokens:
                await asyncio.Event().wait()
            if index == behaviour.cut_after_tokens:
                raise _Cut
            if index == behaviour.end_after_tokens:
                raise _EndedEarly
            if index == behaviour.error_after_tokens:
                raise _EndedEarly(_FAILED)
            await asyncio.sleep(1 / behaviour.tokens_per_second)
            yield f" {_WORDS[index % len(_WORDS)]}"

    def _count(self) -> int:
        return self.behaviour.tokens if self.limit < 0 else min(self.behaviour.tokens, self.limit)

    def _ending(self, count: int, *, loaded: float) -> Ending:
        done = time.monotonic()
        generating = count / self.behaviour.tokens_per_second
        timings = {
            "total_duration": _nanoseconds(done - self.began),
            "load_duration": _nanoseconds(loaded - self.began),
            "prompt_eval_count": 1 + math.ceil(len(self.prompt) / 4),
            "prompt_eval_duration": _nanoseconds(self.behaviour.prompt_seconds + 1e-4),
            "eval_count": count,
            "eval_duration": _nanoseconds(generating + 1e-4),
        }
        return Ending("length" if 0 <= self.limit <= count else "stop", timings)


def prompt_of(body: Mapping[str, Any]) -> str:
    """All text that the model would read."""
    messages = body.get("messages") or []
    return "\n".join([str(body.get("prompt") or ""), *(str(message.get("content", "")) for message in messages)])


async def _write(request: web.Request, response: web.StreamResponse, content: bytes) -> None:
    if not response.prepared:
        await response.prepare(request)
    if content:
        await response.write(content)


def _break(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response


def _nanoseconds(seconds: float) -> int:
    return max(1, int(seconds * 1e9))
