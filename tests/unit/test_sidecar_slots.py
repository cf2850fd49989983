"""Who runs, who waits, who is turned away."""

import asyncio

import pytest

from ollama_fleet.sidecar.refusals import Refused
from ollama_fleet.sidecar.slots import WAITING_PER_SLOT, Slots


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_waiters_run_by_priority_then_arrival() -> None:
    slots, order = Slots(1), list[str]()
    await slots.acquire()

    async def run(name: str, priority: int) -> None:
        await slots.acquire(priority=priority)
        order.append(name)
        slots.release()

    async with asyncio.TaskGroup() as tasks:
        for name, priority in (("a", 0), ("b", 0), ("urgent", 5)):
            tasks.create_task(run(name, priority))
        await settle()
        assert (slots.in_flight, slots.waiting) == (1, 3)
        slots.release()
    assert order == ["urgent", "a", "b"]
    assert (slots.in_flight, slots.waiting) == (0, 0)


async def test_a_full_wait_list_turns_away_with_the_marker() -> None:
    slots = Slots(1)
    await slots.acquire()
    waiters = [asyncio.create_task(slots.acquire()) for _ in range(WAITING_PER_SLOT)]
    await settle()
    with pytest.raises(Refused) as refused:
        await slots.acquire()
    assert (refused.value.status, refused.value.busy, refused.value.retry_after) == (503, True, 1)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert slots.waiting == 0


async def test_those_who_gave_up_leave_nothing_behind() -> None:
    slots = Slots(1)
    await slots.acquire()
    for _ in range(100):
        with pytest.raises(Refused):
            await slots.acquire(patience=0)
    assert len(slots._waiting) == 0
    slots.release()
    await slots.acquire()
    assert slots.in_flight == 1


async def test_a_slot_granted_to_one_who_is_cancelled_goes_on() -> None:
    slots = Slots(1)
    await slots.acquire()
    first, second = asyncio.create_task(slots.acquire()), asyncio.create_task(slots.acquire())
    await settle()
    slots.release()
    first.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert second.exception() is None
    assert slots.in_flight == 1


async def test_fewer_slots_take_nothing_from_those_who_run() -> None:
    slots = Slots(2)
    await slots.acquire()
    await slots.acquire()
    slots.resize(1)
    waiter = asyncio.create_task(slots.acquire())
    slots.release()
    await settle()
    assert not waiter.done()
    slots.release()
    await waiter
    assert slots.in_flight == 1
