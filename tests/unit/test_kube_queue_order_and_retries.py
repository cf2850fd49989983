import asyncio
import logging
import random

import pytest

from ollama_fleet.kube import errors
from ollama_fleet.kube.backoff import Backoff, TokenBucket
from ollama_fleet.kube.kinds import MODEL_SET, OLLAMA_DEPLOYMENT, Kind
from ollama_fleet.kube.queue import Key, Priority, WorkQueue
from ollama_fleet.kube.workers import run_workers, stuck


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(name: str, *, namespace: str = "a", kind: Kind = MODEL_SET) -> Key:
    return Key(kind, namespace, name)


def drain(queue: WorkQueue) -> list[str]:
    names = []
    while (found := queue.pop()) is not None:
        names.append(f"{found.namespace}{found.name}")
        queue.done(found)
    return names


def test_namespaces_and_kinds_take_turns() -> None:
    queue = WorkQueue()
    for name in "1234":
        queue.add(key(name, namespace="a"))
    queue.add(key("1", namespace="b"))
    queue.add(key("1", namespace="c", kind=OLLAMA_DEPLOYMENT))
    assert drain(queue) == ["a1", "b1", "c1", "a2", "a3", "a4"]


def test_a_resync_waits_behind_news_and_news_lift_it() -> None:
    queue = WorkQueue()
    for name in "123":
        queue.add(key(name), priority=Priority.LOW)
    queue.add(key("9"))
    queue.add(key("3"))
    assert drain(queue) == ["a9", "a3", "a1", "a2"]


def test_a_key_touched_in_work_comes_back_once() -> None:
    queue = WorkQueue()
    queue.add(key("1"))
    held = queue.pop()
    assert held is not None
    queue.add(key("1"))
    queue.add(key("1"))
    assert queue.pop() is None
    queue.done(held)
    assert drain(queue) == ["a1"]


def test_back_off_doubles_to_its_limit_and_forget_resets_it() -> None:
    clock = Clock()
    queue = WorkQueue(clock=clock, backoff=Backoff(rng=random.Random(1)))
    delays = [queue.retry(key("1")) for _ in range(12)]
    for number, delay in enumerate(delays):
        full = min(300.0, 2.0**number)
        assert full / 2 <= delay <= full
    queue.forget(key("1"))
    assert queue.retry(key("1")) <= 1.0


def test_the_server_s_wish_counts_when_it_is_longer() -> None:
    queue = WorkQueue(clock=Clock())
    assert queue.retry(key("1"), at_least=30) == 30


def test_many_failures_at_once_are_spread_by_the_common_limit() -> None:
    clock = Clock()
    queue = WorkQueue(clock=clock, retries=TokenBucket(rate=10, burst=5, clock=clock))
    delays = [queue.retry(key(str(number))) for number in range(105)]
    assert max(delays) == pytest.approx(10.0)


async def test_get_wakes_up_for_what_comes_later() -> None:
    queue = WorkQueue()
    queue.add_after(key("1"), 3600)
    queue.add_after(key("1"), 0.01)
    assert await asyncio.wait_for(queue.get(), 5) == key("1")


@pytest.mark.parametrize("turns", range(6))
async def test_workers_end_when_they_are_cancelled_in_the_moment_a_key_comes(turns: int) -> None:
    """In whatever turn of the loop it falls: a worker that overheard it would keep the process alive."""

    async def reconcile(_: Key) -> None:
        return None

    queue = WorkQueue()
    queue.add_after(key("later"), 60)
    workers = asyncio.create_task(run_workers(queue, reconcile, 4))
    await asyncio.sleep(0.01)
    queue.add(key("now"))
    for _ in range(turns):
        await asyncio.sleep(0)
    workers.cancel()
    await asyncio.wait({workers}, timeout=1)
    assert workers.cancelled()


async def test_each_outcome_has_its_consequence(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    queue = WorkQueue(clock=clock)
    seen: list[str] = []
    outcomes: dict[str, float | BaseException | None] = {
        "fine": None,
        "later": 60.0,
        "conflict": errors.Conflict("stale"),
        "busy": errors.TooManyRequests("later", retry_after=20),
        "gone": errors.NotFound("modelsets x not found"),
        "refused": errors.Forbidden("cannot patch pods"),
        "broken": ValueError("bug"),
        "stray": asyncio.CancelledError("of another task"),
    }

    async def reconcile(found: Key) -> float | None:
        outcome = outcomes[found.name]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    for name in outcomes:
        queue.add(key(name))
    finished = asyncio.Event()

    def observe(_kind: str, outcome: str, _seconds: float) -> None:
        seen.append(outcome)
        if len(seen) == len(outcomes):
            finished.set()

    workers = asyncio.create_task(run_workers(queue, reconcile, 2, observe=observe))
    await asyncio.wait_for(finished.wait(), 5)
    workers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await workers
    assert sorted(seen) == ["conflict", "conflict", "error", "error", "error", "ok", "ok", "retry"]
    assert queue.delayed() == 7
    clock.now += 5
    assert sorted(drain(queue)) == ["abroken", "aconflict", "agone", "arefused", "astray"]
    clock.now += 16
    assert drain(queue) == ["abusy"]
    clock.now += 40
    assert drain(queue) == ["alater"]
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR", "ERROR"]


async def test_two_workers_never_hold_one_key() -> None:
    queue = WorkQueue()
    running: set[Key] = set()
    rounds = 0
    finished = asyncio.Event()

    async def reconcile(found: Key) -> None:
        nonlocal rounds
        assert found not in running
        running.add(found)
        queue.add(found)
        await asyncio.sleep(0)
        running.discard(found)
        rounds += 1
        if rounds == 100:
            finished.set()

    queue.add(key("1"))
    queue.add(key("2"))
    workers = asyncio.create_task(run_workers(queue, reconcile, 8))
    await asyncio.wait_for(finished.wait(), 5)
    workers.cancel()
    with pytest.raises(asyncio.CancelledError):
        await workers


def test_a_stuck_worker_is_named() -> None:
    clock = Clock()
    queue = WorkQueue(clock=clock)
    queue.add(key("1"))
    queue.pop()
    clock.now += 299
    assert stuck(queue) is None
    clock.now += 2
    assert stuck(queue) == "ModelSet/a/1 is being reconciled for 301 s"
