"""Which models are loaded, for how long, and who may generate: what server/sched.go does, without a GPU."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from testbed.fakes.ollama.behaviour import Behaviour
from testbed.fakes.ollama.library import FakeModel

_DEFAULT_KEEP_ALIVE: Final = timedelta(minutes=5)


class Refused(Exception):
    """The scheduler gives no runner."""

    def __init__(self, status: int, message: str) -> None:
        """``status`` is the answer's."""
        super().__init__(message)
        self.status = status


@dataclass(slots=True)
class Runner:
    """A loaded model."""

    model: FakeModel
    context_length: int
    keep_alive: timedelta
    expires: datetime
    slots: asyncio.Semaphore
    users: int = 0


class Scheduler:
    """Runners by weights: two names of the same weights share one."""

    def __init__(self, behaviour: Behaviour) -> None:
        """``behaviour`` is read on every call, so it may change between them."""
        self._behaviour = behaviour
        self._runners: dict[str, Runner] = {}
        self._loading = asyncio.Lock()
        self.loads = 0
        """How often a model was loaded."""

    def loaded(self) -> list[Runner]:
        """The runners, the one that expires last first."""
        now = datetime.now(UTC)
        gone = [key for key, one in self._runners.items() if one.users == 0 and one.expires <= now]
        for key in gone:
            del self._runners[key]
        return sorted(self._runners.values(), key=lambda runner: runner.expires, reverse=True)

    def unload(self, model: FakeModel) -> None:
        """At once if it is idle, else when its last user has left."""
        runner = self._runners.get(model.weights)
        if runner is not None:
            runner.keep_alive = timedelta()
            runner.expires = datetime.now(UTC)

    def evict(self, model: FakeModel) -> None:
        """At once, users or not: a runner that died."""
        self._runners.pop(model.weights, None)

    @asynccontextmanager
    async def runner(
        self, model: FakeModel, options: Mapping[str, Any], keep_alive: timedelta | None
    ) -> AsyncIterator[Runner]:
        """A loaded runner, in use until the context ends. Raises Refused."""
        wanted = int(options.get("num_ctx") or model.context_length or self._behaviour.context_length)
        runner = self._usable(model, wanted) or await self._load(model, wanted)
        if keep_alive is not None:
            runner.keep_alive = keep_alive
        runner.users += 1
        try:
            yield runner
        finally:
            runner.users -= 1
            runner.expires = datetime.now(UTC) + runner.keep_alive

    def _usable(self, model: FakeModel, context_length: int) -> Runner | None:
        self.loaded()
        runner = self._runners.get(model.weights)
        return runner if runner is not None and runner.context_length == context_length else None

    async def _load(self, model: FakeModel, context_length: int) -> Runner:
        if self._behaviour.queue_full:
            raise Refused(503, "server busy, please try again.  maximum pending requests exceeded")
        async with self._loading:
            found = self._usable(model, context_length)
            if found is not None:
                return found
            self._runners.pop(model.weights, None)
            await asyncio.sleep(self._behaviour.load_seconds)
            if self._behaviour.load_error is not None:
                raise Refused(500, self._behaviour.load_error)
            await self._make_room()
            runner = Runner(
                model=model,
                context_length=context_length,
                keep_alive=_DEFAULT_KEEP_ALIVE,
                expires=datetime.now(UTC) + _DEFAULT_KEEP_ALIVE,
                slots=asyncio.Semaphore(1 if model.embeds else self._behaviour.parallel),
            )
            self._runners[model.weights] = runner
            self.loads += 1
            return runner

    async def _make_room(self) -> None:
        while len(self.loaded()) >= self._behaviour.max_loaded:
            idle = [key for key, runner in self._runners.items() if runner.users == 0]
            if idle:
                del self._runners[idle[0]]
            else:
                await asyncio.sleep(0.01)
