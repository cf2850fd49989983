"""A blocking call that is cancelled is over before its caller goes on."""

import asyncio
import threading

import pytest

from ollama_fleet.store.errors import NotFound
from ollama_fleet.store.threads import leaf, settled


async def test_a_cancelled_call_is_waited_for_however_often_it_is_cancelled() -> None:
    go_on, finished = threading.Event(), threading.Event()

    def work() -> None:
        go_on.wait(10)
        finished.set()

    task = asyncio.create_task(settled(work))
    for _ in range(3):
        await asyncio.sleep(0.01)
        task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished.is_set()


async def test_results_and_errors_pass_through() -> None:
    assert await settled(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await settled(int, "x")


def test_the_error_that_matters_is_found_in_nested_groups() -> None:
    group = BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [KeyError(), NotFound("gone")])])
    assert isinstance(leaf(group, NotFound), NotFound)
    assert isinstance(leaf(group, OSError), ValueError)
