"""Several requests of one reconcile at the same time."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def together(*steps: Awaitable[T]) -> list[T]:
    """What each returned; the first error, but only when all have ended: none may go on beside the key's next try."""
    found: list[T] = []
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        found.append(outcome)
    return found
