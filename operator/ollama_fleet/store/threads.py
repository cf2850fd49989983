"""Blocking calls from the event loop."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def settled(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run in a thread; when cancelled, wait for the thread before going on.

    The caller is about to close the file and drop the lock that the thread works under: the number of a closed file may
    be another file by the time the thread writes.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError:
                continue
        raise


def leaf(group: BaseExceptionGroup[BaseException], *kinds: type[BaseException]) -> BaseException:
    """The first error inside a group that is of one of the kinds, else the first at all."""
    leaves = list(_leaves(group))
    return next((error for error in leaves if isinstance(error, kinds)), leaves[0])


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [found for inner in error.exceptions for found in _leaves(inner)]
    return [error]
