"""Workers: take a key, reconcile it, decide when it comes back."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal, Protocol

from ollama_fleet.kube import cancelling, errors
from ollama_fleet.kube.queue import Key, WorkQueue

logger = logging.getLogger(__name__)

Reconcile = Callable[[Key], Awaitable[float | None]]
"""Returns the seconds after which the key wants another look, or None."""
Outcome = Literal["ok", "conflict", "retry", "error"]
STUCK_AFTER: Final = 300.0
"""Seconds that a reconcile may take: every request in it has a shorter timeout."""


class Observe(Protocol):
    """Told of each reconcile: for metrics."""

    def __call__(self, kind: str, outcome: Outcome, seconds: float, /) -> None:
        """``kind`` is the key's kind."""


async def run_workers(
    queue: WorkQueue,
    reconcile: Reconcile,
    n: int,
    *,
    observe: Observe | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """``n`` workers until cancelled; a reconcile under way is cancelled with them.

    Whatever a reconcile raises, its key is retried with back-off: a conflict, an object that is gone and other
    retryable answers of the API server are no errors, other refusals are, and any other exception is a bug and
    leaves a traceback.
    """
    async with asyncio.TaskGroup() as group:
        for number in range(n):
            group.create_task(_work(queue, reconcile, observe, clock), name=f"worker-{number}")


async def _work(queue: WorkQueue, reconcile: Reconcile, observe: Observe | None, clock: Callable[[], float]) -> None:
    while True:
        key = await queue.get()
        started = clock()
        try:
            outcome = await _reconcile(queue, reconcile, key)
        finally:
            queue.done(key)
        if observe is not None:
            observe(key.kind.kind, outcome, clock() - started)


async def _reconcile(queue: WorkQueue, reconcile: Reconcile, key: Key) -> Outcome:
    try:
        again = await reconcile(key)
    except (errors.Conflict, errors.NotFound) as error:
        # The cache was behind; the watch brings the news, the retry is for when it does not.
        delay = queue.retry(key)
        logger.debug("conflict", extra={"key": str(key), "error": str(error), "retry_seconds": round(delay, 1)})
        return "conflict"
    except errors.Retryable as error:
        delay = queue.retry(key, at_least=error.retry_after or 0.0)
        logger.warning("API server", extra=_fields(key, error, delay))
        return "retry"
    except errors.KubeError as error:
        # Nothing that a second try cures, but what the operator may do, or an object's limits, can change.
        delay = queue.retry(key)
        logger.error("refused by the API server", extra=_fields(key, error, delay))  # noqa: TRY400 - it says all
        return "error"
    except (Exception, asyncio.CancelledError) as error:
        if cancelling.is_meant(error):
            raise
        delay = queue.retry(key)
        logger.exception("reconcile failed", extra=_fields(key, error, delay))
        return "error"
    queue.forget(key)
    if again is not None:
        queue.add_after(key, again)
    return "ok"


def _fields(key: Key, error: BaseException, delay: float) -> dict[str, object]:
    return {"key": str(key), "error": f"{type(error).__name__}: {error}", "retry_seconds": round(delay, 1)}


def stuck(queue: WorkQueue, *, after: float = STUCK_AFTER) -> str | None:
    """What holds a worker for longer than ``after`` seconds: a check for ``/livez``."""
    held = queue.longest_active()
    if held is None or held[1] <= after:
        return None
    return f"{held[0]} is being reconciled for {held[1]:.0f} s"
