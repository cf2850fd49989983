"""Cancellations that are meant, and those that escaped."""

import asyncio


def is_meant(error: BaseException) -> bool:
    """Whether somebody cancels the running task; the CancelledError of another task that comes up in it is a bug."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
