"""Slots of one runner: who may run now, who waits, who is turned away. No I/O.

Ollama lets any number of requests wait for a loaded model, unseen and unbounded; here at most ``slots`` run, and
a short list waits by priority and arrival.
"""

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol

from ollama_fleet.api.group import WAITING_PER_SLOT
from ollama_fleet.sidecar.refusals import Refused

WAIT_SECONDS: Final = 30.0


@dataclass(order=True, slots=True)
class _Waiter:
    rank: tuple[int, int]
    turn: "asyncio.Future[None]" = field(compare=False)


class Request(Protocol):
    """What runs in a slot."""

    def abort(self) -> None:
        """Break its connection."""


class Slots:
    """The slots of one runner of Ollama. Belongs to one event loop."""

    def __init__(self, count: int) -> None:
        """``count`` requests run at once."""
        self.count = count
        self.in_flight = 0
        self.running: set[Request] = set()
        """Those in flight that nobody broke off yet."""
        self._waiting: list[_Waiter] = []
        self._arrivals = itertools.count()

    @property
    def waiting(self) -> int:
        """Requests that wait for a slot."""
        return sum(not waiter.turn.done() for waiter in self._waiting)

    async def acquire(self, *, priority: int = 0, patience: float = WAIT_SECONDS) -> None:
        """Take a slot, waiting up to ``patience`` seconds. Raises Refused (503, busy)."""
        if self.in_flight < self.count and not self.waiting:
            self.in_flight += 1
            return
        if self.waiting >= self.count * WAITING_PER_SLOT:
            raise _busy("every slot is taken and the wait list is full")
        waiter = _Waiter((-priority, next(self._arrivals)), asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiter)
        try:
            async with asyncio.timeout(patience):
                await waiter.turn
        except TimeoutError:
            self._withdraw(waiter)
            raise _busy(f"no slot became free within {patience:.0f} s") from None
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise

    def release(self) -> None:
        """Give a slot back; the next waiter has it at once."""
        self.in_flight -= 1
        self._grant()

    def resize(self, count: int) -> None:
        """Change the number of slots; running requests go on."""
        self.count = count
        self._grant()

    def abort(self) -> int:
        """Break off what runs, and return how many requests that were. Their slots stay taken until Ollama is done."""
        broken, self.running = self.running, set()
        for request in broken:
            request.abort()
        return len(broken)

    def _grant(self) -> None:
        while self._waiting and self.in_flight < self.count:
            waiter = heapq.heappop(self._waiting)
            if not waiter.turn.done():
                self.in_flight += 1
                waiter.turn.set_result(None)

    def _withdraw(self, waiter: _Waiter) -> None:
        if waiter.turn.done() and not waiter.turn.cancelled():
            # The slot was granted in the same moment: hand it on.
            self.release()
        waiter.turn.cancel()
        if waiter in self._waiting:
            self._waiting.remove(waiter)
            heapq.heapify(self._waiting)


def _busy(text: str) -> Refused:
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, f"server busy: {text}; try again", retry_after=1, busy=True)
