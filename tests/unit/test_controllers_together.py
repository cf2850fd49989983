import asyncio

import pytest

from ollama_fleet.controllers.together import together
from ollama_fleet.kube import errors


async def later(value: int, ended: list[int]) -> int:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    ended.append(value)
    return value


async def refused() -> int:
    raise errors.TooManyRequests("later")


async def test_results_keep_their_order() -> None:
    ended: list[int] = []
    assert await together(later(1, ended), later(2, ended)) == [1, 2]
    assert await together() == []


async def test_one_that_fails_is_told_when_the_others_have_ended() -> None:
    ended: list[int] = []
    with pytest.raises(errors.TooManyRequests):
        await together(refused(), later(1, ended), refused())
    assert ended == [1]


async def test_who_is_cancelled_takes_all_along() -> None:
    ended: list[int] = []
    task = asyncio.create_task(together(later(1, ended), later(2, ended)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == []
